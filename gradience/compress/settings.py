"""Settings of a compression: flags and keywords of Python under the same names."""

import os
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, SkipValidation

from gradience.adapters.settings import NameSettings, WorkSettings
from gradience.audit.options import AllowedRanks, CalibrationFile
from gradience.files.card import CardOf
from gradience.ranks import Suggested
from gradience.reports.base.encodings import ENCODING_NAMES
from gradience.settings import (
    AboveZero,
    Flag,
    Internal,
    OutputPath,
    Part,
    Positive,
    Share,
    Strength,
    StrPath,
    settings_model,
)

if TYPE_CHECKING:
    from gradience.reports.compression import CompressionPlan
else:
    CompressionPlan = Any  # not imported to read a command line


def storage_types() -> list[str]:
    """Return the storage types that factors can have."""
    from gradience.adapters.tensors import DTYPES

    return [name for name, dtype in DTYPES.items() if dtype.numpy_name is not None]


def _plan(value: Any) -> Any:
    from gradience.reports.compression import CompressionPlan

    if value is not None and not isinstance(value, CompressionPlan | str | os.PathLike):
        raise ValueError("must be a CompressionPlan, or the path of one")
    return value


@settings_model(kw_only=True)
class SizeSettings:
    """Target size (give one)."""

    rank: Annotated[Positive | None, Flag("K")] = None
    """Truncate every module to this rank."""
    energy: Annotated[Share | None, Flag("T")] = None
    """Truncate every module to the smallest rank that keeps this share of its energy."""
    suggested: Annotated[Suggested | None, Flag("WHICH")] = None
    """Use the ranks that the audit suggests."""
    reduction: Annotated[Part | None, Flag("F")] = None
    """Remove at least this share of the LoRA parameters, with the smallest error."""
    max_params: Annotated[Positive | None, Flag("N")] = None
    """Maximum number of LoRA parameters."""
    max_error: Annotated[Part | None, Flag("E")] = None
    """Largest relative error of the whole adapter."""
    max_kl_per_token: Annotated[AboveZero | None, Flag("X")] = None
    """Largest upper bound of the predicted KL, in nats per scored token (needs `calibration`)."""
    host: Annotated[str | None, Flag("HOST[:MODEL]", name="--for")] = None
    """Truncate to the rank that a host documents as its maximum: wandb, together, fireworks or sagemaker."""
    plan: Annotated[
        SkipValidation[CompressionPlan | StrPath | None], BeforeValidator(_plan), Flag("FILE")
    ] = None
    """Use the ranks of a plan that a dry run printed as JSON, edited if you like."""


@settings_model(kw_only=True)
class RankSettings:
    """Ranks, directions and strength."""

    strength: Annotated[Strength | None, Flag("X")] = None
    """Factor for the update, such as 0.8. Without a target size, the ranks do not change."""
    allowed_ranks: AllowedRanks = None
    """Ranks that modules may have, such as `[4, 8, 16]`."""
    calibration: CalibrationFile = None
    """File of gradience calibrate: choose directions and ranks by their effect on the output."""
    allow_routed: bool = False
    """Allow KL predictions and `max_kl_per_token` for a mixture-of-experts base."""


@settings_model(kw_only=True)
class WriteSettings:
    """Written files."""

    encoding: Annotated[str | None, Flag("HOW", values=lambda: ENCODING_NAMES)] = None
    """How ranks and scales are stored: uniform, patterns, padded or folded (default: uniform if ranks and
    scales agree, else patterns)."""
    dtype: Annotated[str | None, Flag("TYPE", values=storage_types)] = None
    """Storage type: BF16, F16, F32 … (default: unchanged)."""
    base_model: Annotated[StrPath | None, Flag("NAME")] = None
    """Base model (folder or hub name): its config names the architecture. DoRA also needs its weights."""
    force: bool = False
    """Replace an existing adapter folder."""


@settings_model(kw_only=True)
class WritingSettings(WriteSettings, WorkSettings):
    """How a smaller adapter is written."""

    card: Annotated[CardOf | None, Internal] = None
    """Makes the model card. If given, the report is written as Markdown, too."""


@settings_model()
class CompressSettings(SizeSettings, RankSettings, WritingSettings, NameSettings):
    """Output."""

    path: Annotated[StrPath, Flag("ADAPTER")]
    """Adapter folder, a .safetensors file in one, or org/name on the hub."""
    output: Annotated[OutputPath | None, Flag("DIR", "-o")] = None
    """Folder of the smaller adapter."""
    _: KW_ONLY
    dry_run: bool = False
    """Show the plan and write nothing."""
