"""Ways of making an adapter that is compared with the probe, and controls.

Candidates are every variant's ranks in every arm of the config. A control chooses ranks of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from gradience.bench.arms.ranks import AuditedProbe, Choice
from gradience.plan.modules import Ranks
from gradience.reports.audit import AuditReport
from gradience.reports.calibration import Calibration


class Source(NamedTuple):
    """What an adapter is derived from."""

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
    make: Callable[[Source, Ranks, Path], None] | None = None
    """Writes the adapter with these ranks, from the probe's files, to a folder, as PEFT would. None: it is trained from
    scratch, with the probe's recipe and seed."""
    words: str = ""
    """What a candidate is, for the reference of the config and beside the results."""
    suffix: bool = True
    """Whether its name stands behind the variant's (`per_layer.truncate`); without it the result has that alone."""
    trains: Literal["lora", "head"] = "lora"
    """`head`: the model's head alone; the LoRA stays at ΔW = 0 and is left out when the head is evaluated."""
    distills: bool = False
    """Whether what was derived from the probe is then trained for a few steps to answer as the probe does."""
    needs_control: str = ""
    """The control without which it is not reported."""

    @property
    def is_trained(self) -> bool:
        """Whether it is trained from scratch; everything else is derived from the probe."""
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
    """What it is and tells, beside its row in a report and in the reference of the config."""
    ranks: Callable[[AuditedProbe], Choice]
    """Raises NotMade, with the reason, where there are none."""
    arm: Arm | None = None
    """How it is made; None: in each arm in which the variant `needs_variant` is made."""
    needs_variant: str = ""
    """The variant without which it means nothing."""
    needs_arm: str = ""
    """The arm without which it means nothing."""
    needs_head: bool = False
    """Whether the model must have a head, as `model.type: seqcls` has."""
    expected: Literal["PASS", "FAIL"] | None = None
    """The status that it must have, for the test to have been able to see a difference; None: it may have any."""
    otherwise: str = "the task cannot tell good from bad"
    """What it means when it has the other one."""
