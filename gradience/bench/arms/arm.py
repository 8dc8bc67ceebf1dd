"""Ways of making an adapter that is compared with the probe, and controls.

Candidates are every variant's ranks in every arm of the config. A control chooses ranks of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from gradience.bench.arms.ranks import AuditedProbe, Choice
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
    """By which its components are chosen; None: by their singular values."""


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
    """The control without which it is not reported."""

    @property
    def is_trained(self) -> bool:
        """True if it is trained from scratch; all others are derived from the probe."""
        return self.make is None

    def result_name(self, variant: str) -> str:
        """Return the name of a variant's result in this arm."""
        return f"{variant}.{self.name}" if self.suffix else variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """An adapter that measures the measurement: nothing is claimed of it, but something may be expected."""

    name: str
    """In `compression.controls`, and in the results."""
    words: str
    """Description and purpose, beside its row in a report and in the config reference."""
    ranks: Callable[[AuditedProbe], Choice]
    """Raises NotMade, with the reason, if there are no ranks."""
    arm: Arm | None = None
    """Arm that makes it; None: every arm in which the variant `needs_variant` is made."""
    needs_variant: str = ""
    """The variant without which it means nothing."""
    needs_arm: str = ""
    """The arm without which it means nothing."""
    needs_head: bool = False
    """The model must have a head, as with `model.type: seqcls`."""
    expected: Literal["PASS", "FAIL"] | None = None
    """The status that it must have, for the test to have been able to see a difference; None: it may have any."""
    otherwise: str = "the task does not distinguish good adapters from bad ones"
    """Meaning of the opposite outcome."""
