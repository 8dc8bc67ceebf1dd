"""The probe, distilled although nothing was cut: what distillation does by itself, apart from bringing anything back.

In other factors, since distillation would leave the probe's own as they are: loss and gradient would be exactly 0.
"""

from __future__ import annotations

from pathlib import Path

from gradience.bench.arms.arm import Control, Distilled, Source
from gradience.bench.arms.controls.random_directions import write_random_directions
from gradience.bench.arms.ranks import Choice
from gradience.plan.modules import Ranks


def rotate_again(source: Source, ranks: Ranks, target: Path) -> None:
    """Write the probe to the folder `target`, in other factors than its own and than those of the control `aa`."""
    write_random_directions(source.probe, source.probe, ranks, target, seed=source.seed + 1)


PROBE_DISTILLED = Control(
    name="probe_distilled",
    words="distillation control: the probe in other factors, distilled like the arm distill; must pass, and what it"
    " changes is not restored but added",
    ranks=lambda probe: Choice(probe.ranks, "the probe, in other factors"),
    arm=Distilled("rotate_distill", rotate_again),
    needs_arm="distill",
    expected="PASS",
    otherwise="distillation changes more answers than the policy allows where nothing was cut, so what the arm distill"
    " shows is further training as well",
)
