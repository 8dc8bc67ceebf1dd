"""Settings of the verbs on many adapters: flags and keywords of Python under the same names."""

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Annotated, Literal

from pydantic import BeforeValidator

from gradience.adapters.settings import WorkSettings
from gradience.compress.settings import WriteSettings
from gradience.settings import Flag, Number, OutputPath, Positive, StrPath, settings_model, several


@settings_model()
class FleetSettings(WorkSettings):
    """Adapters and output."""

    sources: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("SOURCE")]
    """Folder of adapters, or adapter; one or several."""
    output: Annotated[OutputPath | None, Flag("FILE", "-o")] = None
    """fleet.jsonl, one row per adapter."""
    _: KW_ONLY
    recursive: bool = False
    """Look for adapters in folders at any depth."""
    root: Annotated[StrPath | None, Flag("DIR")] = None
    """Folder that the paths of the rows are relative to (default: the current folder if the sources are below it, else
    the common folder above them)."""
    slots: Annotated[Positive, Flag("N")] = 8
    """Adapters that a server holds at a time: memory and flags are shown for this number."""
    max_error: Annotated[Number, Flag("E")] = 0.25
    """Largest relative weight error of an adapter at a recommended lower rank."""
    host: Annotated[str | None, Flag("HOST[:MODEL]", name="--for")] = None
    """Show the adapters above the rank that a host documents: wandb, together, fireworks or sagemaker."""
    workers: Annotated[Positive | None, Flag("N")] = None
    """Processes at a time (default: one per processor). The rows are the same for any number."""


@settings_model()
class FleetCompressSettings(WriteSettings, WorkSettings):
    """Many adapters."""

    fleet: Annotated[StrPath, Flag("FILE")]
    """The fleet.jsonl whose adapters are compressed, as gradience fleet wrote it."""
    output: Annotated[OutputPath, Flag("DIR", "-o")]
    """Folder of the batch, with each smaller adapter under the path of its row."""
    _: KW_ONLY
    rank: Annotated[Positive, Flag("K")]
    """Truncate every larger module to this rank."""
    root: Annotated[StrPath, Flag("DIR")] = "."
    """Folder that the paths of the rows are relative to, as when they were measured."""
    unchanged: Annotated[Literal["leave", "link"], Flag("HOW")] = "leave"
    """Adapters at or below this rank: leave them out, or link them into the output, which is then complete."""
