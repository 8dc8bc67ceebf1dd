"""Settings of a search: flags and keywords of Python under the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from gradience.audit.options import CalibrationFile
from gradience.evaluate.settings import EvaluateSettings, ExampleSettings
from gradience.files.card import CardOf
from gradience.files.hub import address_of
from gradience.models.settings import BaseSettings, DryRun
from gradience.settings import Flag, Internal, OutputPath, RankList, Strength, StrPath, settings_model, shared


def _parts(given: Any) -> Any:
    return given.split(",") if isinstance(given, str) else given


@settings_model()
class ShrinkSettings(BaseSettings, ExampleSettings, DryRun):
    """Adapter and candidates."""

    adapter: Annotated[StrPath, Flag("ADAPTER")]
    """Folder of a LoRA adapter."""
    output: Annotated[OutputPath | None, Flag("DIR", "-o")] = None
    """Folder of the smaller adapter and its evidence (default: ./NAME-shrunk).

    With the same folder an interrupted search resumes."""
    _: KW_ONLY
    ranks: Annotated[RankList | None, Flag("RANKS", read=str)] = None
    """Ranks to test, such as `[8, 4, 2, 1]` (default: the audit's p90 suggestion, halved down to 1; with a calibration,
    the powers of two below the adapter's rank; if `over` is strength, the adapter's own). A search over rank tests only
    ranks below the adapter's."""
    over: Annotated[Literal["rank", "strength"], Flag("WHAT")] = "rank"
    """Search over rank, or over strength: scale the update down to keep the task and forget less. Needs `guards`."""
    strengths: Annotated[Sequence[Strength] | None, BeforeValidator(_parts), Flag("X,…", read=str)] = None
    """If `over` is strength: scale factors of the update, tried on the dev examples (default: `[0.9, 0.8, 0.7, 0.6,
    0.5]`)."""
    calibration: CalibrationFile = None
    """File of gradience calibrate: candidates keep the components with the largest effect on the output."""
    prompts: Annotated[StrPath | None, Flag("FILE")] = None
    """Prompts without answers. Without `data` or `task`, the share of changed answers is tested (only for a causal
    language model). With them, the prompts are used only to calibrate and distill."""
    card: Annotated[CardOf | None, Internal] = None
    """Makes the model card from an adapter's folder and the evidence about it."""

    @property
    def folder(self) -> Path:
        """Return `output`, or the adapter's name and `-shrunk` in the current folder."""
        if self.output is not None:
            return Path(self.output)
        hub = None if Path(self.adapter).exists() else address_of(self.adapter)
        name = hub.repo.rpartition("/")[2] if hub else Path(self.adapter).resolve().name
        return Path(f"{name}-shrunk")

    @property
    def prompts_beside_examples(self) -> bool:
        """True if the prompts serve for calibration and distillation, False if there are none or they are tested."""
        return self.prompts is not None and (self.data is not None or self.task is not None)

    @property
    def evaluation(self) -> EvaluateSettings:
        """The settings of its evaluations."""
        return EvaluateSettings(
            (self.adapter,), **shared(self, BaseSettings), **shared(self, ExampleSettings)
        )
