"""Arms: ways to make the adapter that is compared with the probe (retrain, truncate, truncate and distill).

The candidates are all combinations of a variant (its ranks) and an arm of the config. A truncation keeps the leading
directions of each module, the best approximation of its update at that rank (Eckart–Young). With a calibration, it
keeps the directions with the largest effect on the output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from gradience.adapters.formats import open_adapter
from gradience.compress.adapter import write_compressed
from gradience.compress.settings import WritingSettings
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRanks
from gradience.plan.modules import Ranks
from gradience.reports.audit import AuditReport
from gradience.reports.calibration import Calibration


class ArmSource(NamedTuple):
    """Source of a derived adapter."""

    probe: Path
    """The folder that PEFT wrote."""
    audit: AuditReport
    seed: int
    calibration: Calibration | None = None
    """Calibration that ranks the components; None: rank by singular value."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A way of making an adapter."""

    name: str
    """In `compression.arms`, and as `made_by` in the results."""
    make: Callable[[ArmSource, Ranks, Path], None] | None = None
    """Writes the adapter with these ranks, from the probe's files, to a folder, as PEFT would. None: it is trained from
    scratch, with the probe's recipe and seed."""
    words: str = ""
    """Description of a candidate, for the config reference and beside the results."""
    suffix: bool = True
    """Append the arm's name to the variant's (`per_layer.truncate`); if False the result has only the
    variant's name.
    """
    trains: Literal["lora", "head"] = "lora"
    """`head`: only the model's head; the LoRA stays at ΔW = 0 and is left out when the head is evaluated."""
    distills: bool = False
    """Distill the adapter derived from the probe: train it for a few steps to match the probe's outputs."""
    needs_control: str = ""
    """Control that must be evaluated for the arm to be reported."""

    @property
    def is_trained(self) -> bool:
        """True if it is trained from scratch; all others are derived from the probe."""
        return self.make is None

    def result_name(self, variant: str) -> str:
        """Return the name of a variant's result in this arm."""
        return f"{variant}.{self.name}" if self.suffix else variant


def truncate(source: ArmSource, ranks: Ranks, target: Path) -> None:
    """Write the probe, truncated to `ranks`, to the folder `target`."""
    criterion = ToRanks(ranks, "the ranks of a Bench variant")
    plan = plan_compression(source.audit, criterion, calibration=source.calibration)
    with open_adapter(source.probe) as probe:
        write_compressed(probe, plan, target, WritingSettings(force=True), calibration=source.calibration)


RETRAIN = Arm("retrain", words="retrained from scratch at the smaller ranks", suffix=False)
TRUNCATE = Arm("truncate", truncate, "the probe, truncated")
DISTILL = Arm(
    "distill",
    truncate,
    "the probe, truncated, then distilled for a few steps without labels to match the probe's outputs",
    distills=True,
    needs_control="probe_distilled",
)

ARMS: dict[str, Arm] = {arm.name: arm for arm in (RETRAIN, TRUNCATE, DISTILL)}
"""Name in the config -> arm."""
