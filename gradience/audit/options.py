"""Settings of an audit: flags and keywords of Python under the same names."""

from dataclasses import KW_ONLY
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from gradience.adapters.settings import NameSettings, WorkSettings
from gradience.settings import Flag, OutputPath, PythonOnly, RankList, Share, StrPath, settings_model

if TYPE_CHECKING:
    from gradience.reports.calibration import Calibration
else:
    Calibration = Any  # not imported to read a command line


def read_calibration(given: Any) -> Any:
    """Return a calibration that is given itself or by its path. Raises WrongType, and as `Calibration.read` does."""
    if given is None:
        return None
    from gradience.reports.calibration import calibration_argument

    return calibration_argument(given)


CalibrationFile = Annotated[Calibration | StrPath | None, BeforeValidator(read_calibration), Flag("FILE")]
AllowedRanks = Annotated[RankList | None, Flag("R,R...", read=str)]


@settings_model(kw_only=True)
class BaseOfAudit:
    """Base model."""

    base_model: Annotated[StrPath | None, PythonOnly] = None
    """Folder of the base model: reports each update's size relative to its base weight."""
    base_name: Annotated[str | None, PythonOnly] = None
    """Name of the base in the report (default: its folder)."""


@settings_model(kw_only=True)
class AuditFiles:
    """Output."""

    output: Annotated[OutputPath | None, Flag("FILE", "-o")] = None
    """Audit report to write, as JSON."""
    append: Annotated[StrPath | None, Flag("RUN")] = None
    """The run.jsonl of the adapter's training, to which a summary is appended."""
    force: bool = False
    """Replace an existing `output`."""


@settings_model()
class AuditSettings(WorkSettings, NameSettings, BaseOfAudit, AuditFiles):
    """Audit."""

    path: Annotated[StrPath, PythonOnly]
    """A PEFT folder, a Trainer checkpoint, a .safetensors file, or a name on the hub."""
    _: KW_ONLY
    tau: Annotated[Share, Flag("T")] = 0.9
    """Share of the energy that a suggested rank must keep, in (0, 1]."""
    allowed_ranks: AllowedRanks = None
    """Ranks that may be suggested, such as 4,8,16 (default: powers of 2)."""
