"""A head trained alone: how much of a classifier's score the adapter has no part in."""

from __future__ import annotations

from gradience.bench.arms.arm import Control, Trained
from gradience.bench.arms.ranks import Choice

HEAD_ONLY = Control(
    name="head_only",
    words="no LoRA: a head trained alone; same steps, learning rate and seed as the probe; must fail",
    ranks=lambda probe: Choice(dict.fromkeys(probe.ranks, 0), "no LoRA, a head trained alone"),
    arm=Trained("head", trains="head"),
    needs_head=True,
    expected="FAIL",
)
