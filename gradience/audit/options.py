"""Settings of an audit: flags and keywords of Python under the same names."""

from __future__ import annotations

import os
import sys
from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from gradience.adapters.settings import NameSettings, StartSettings, WorkSettings
from gradience.settings import SETTINGS, Flag, Number, PythonOnly, Ranks, StrPath

if TYPE_CHECKING:
    from peft import PeftModel

    from gradience.reports.calibration import Calibration
else:
    PeftModel = Calibration = Any  # neither is imported to read a command line


def is_peft_model(value: object) -> bool:
    """Return whether `value` is a PeftModel."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(value, peft.PeftModel)


def _path_or_model(value: Any) -> Any:
    if isinstance(value, str | os.PathLike):
        return value
    if not is_peft_model(value):
        raise ValueError("must be a path or a PeftModel")
    return value


def _ranks(text: str) -> tuple[int, ...]:
    from gradience.plan.modules import parse_ranks

    return parse_ranks(text)


def read_calibration(given: Any) -> Any:
    """Return a calibration that is given itself or by its path. Raises WrongType, and as `Calibration.read` does."""
    if given is None:
        return None
    from gradience.reports.calibration import calibration_argument

    return calibration_argument(given)


CalibrationFile = Annotated[Calibration | StrPath | None, BeforeValidator(read_calibration), Flag("FILE")]
AllowedRanks = Annotated[Ranks | None, Flag("R,R...", read=_ranks)]


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class BaseOfAudit:
    """Base model."""

    base: Annotated[StrPath | None, PythonOnly] = None
    """Folder of the base model: adds the size of each update relative to its weight."""
    base_name: Annotated[str | None, PythonOnly] = None
    """Name of the base in the report (default: its folder)."""


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class AuditFiles:
    """Output."""

    output: Annotated[StrPath | None, Flag("FILE", "-o")] = None
    """Write audit.json to FILE."""
    append: Annotated[StrPath | None, Flag("RUN")] = None
    """Append a summary to the run.jsonl of its training."""
    force: bool = False
    """Allow --output to replace a file."""


@dataclass(frozen=True, config=SETTINGS)
class AuditSettings(WorkSettings, NameSettings, StartSettings, BaseOfAudit, AuditFiles):
    """Audit."""

    path: Annotated[str | os.PathLike[str] | PeftModel, BeforeValidator(_path_or_model), PythonOnly]
    """A PEFT folder, a Trainer checkpoint, a .safetensors file, a name on the hub, or a PeftModel in memory."""
    _: KW_ONLY
    tau: Annotated[Number, Flag("T")] = 0.9
    """Share of the energy that a suggested rank must keep, in (0, 1]."""
    allowed_ranks: AllowedRanks = None
    """Ranks that may be suggested, such as 4,8,16 (default: powers of 2)."""
