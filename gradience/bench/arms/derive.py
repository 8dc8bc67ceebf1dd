"""Ways of making a smaller adapter from the probe itself. A new way is one function and one line in `WAYS`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.bench import Making
from gradience.bench.arms.controls import random_directions
from gradience.compress.adapter import compress_adapter
from gradience.plan.criteria import ToRanks, plan_compression

Way = Callable[[Path, AuditReport, Mapping[str, int], Path, int], None]
"""(the probe's folder, its audit, a rank for every module, the folder to write, seed)."""


def truncate(probe: Path, audit: AuditReport, ranks: Mapping[str, int], target: Path, seed: int) -> None:
    """The leading directions of each module: the best approximation of its update at that rank (Eckart–Young)."""
    plan = plan_compression(audit, ToRanks(ranks, "the ranks of a Bench variant"))
    compress_adapter(probe, plan, target, force=True)


def draw(probe: Path, audit: AuditReport, ranks: Mapping[str, int], target: Path, seed: int) -> None:
    """As many directions, at random: the control that must do badly."""
    truncated = target.with_name("truncated")
    truncate(probe, audit, ranks, truncated, seed)
    random_directions(probe, truncated, target, seed=seed)
    shutil.rmtree(truncated)


def rotate(probe: Path, audit: AuditReport, ranks: Mapping[str, int], target: Path, seed: int) -> None:
    """The same update in other factors: what changes in the answers is the noise of the measurement."""
    random_directions(probe, probe, target, seed=seed)


WAYS: Mapping[Making, Way] = {
    "truncate": truncate,
    "rotate": rotate,
    "random_directions": draw,
}
