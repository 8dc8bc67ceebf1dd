"""The probe, healed although nothing was cut: what healing does by itself, apart from bringing anything back.

In other factors, since healing would leave the probe's own as they are: its loss and its gradient would be exactly 0.
"""

from __future__ import annotations

from pathlib import Path

from gradience.bench.arms.arm import Control, Healed, Source
from gradience.bench.arms.controls.random_directions import write_random_directions
from gradience.bench.arms.ranks import Choice
from gradience.plan.modules import Ranks


def rotate_again(source: Source, ranks: Ranks, target: Path) -> None:
    """Write the probe to the folder `target`, in other factors than its own and than those of the control `aa`."""
    write_random_directions(source.probe, source.probe, ranks, target, seed=source.seed + 1)


PROBE_HEALED = Control(
    name="probe_healed",
    words="healing control: the probe in other factors, healed like the arm heal; must pass, and what it changes is"
    " not restored but added",
    ranks=lambda probe: Choice(probe.ranks, "the probe, in other factors"),
    arm=Healed("rotate_heal", rotate_again),
    needs_arm="heal",
    expected="PASS",
    otherwise="healing changes more answers than the policy allows where nothing was cut, so what the arm heal shows is"
    " further training as well",
)
