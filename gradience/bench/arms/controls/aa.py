"""The probe's own update in other factors: what changes in the answers is the noise of the measurement."""

from __future__ import annotations

from pathlib import Path

from gradience.bench.arms.arm import Control, Derived, Source
from gradience.bench.arms.controls.random_directions import write_random_directions
from gradience.bench.arms.ranks import Choice
from gradience.plan.modules import Ranks


def rotate(source: Source, ranks: Ranks, target: Path) -> None:
    """Write the probe with its factors rotated to the folder `target`."""
    write_random_directions(source.probe, source.probe, ranks, target, seed=source.seed)


AA = Control(
    name="aa",
    words="rewrite control: same update, other factors; must pass, and what it changes is noise",
    ranks=lambda probe: Choice(probe.ranks, "the probe, in other factors"),
    arm=Derived("rotate", rotate),
    expected="PASS",
    otherwise="the same update in other factors changes more answers than the policy allows, so rounding alone"
    " decides here",
)
