"""Diagnose the rank from a series of live spectra: settled, too small, far too large. Pure, no numpy.

The tracker uses it during training and monitor when it reads run.jsonl, so both give the same result.

Thresholds come from 122 public adapters and from repeated runs on one task (docs/reference/monitor_rules.md,
"Where the thresholds come from"). k@90 of a module is reproducible to within 1 between seeds, and a settled
run keeps it to within 1. Trained adapters of rank 8 or more practically never need 7/8 of their rank, while a
rank that is too small for its task is needed until the end.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from gradience.ranks import percentile

SETTLED_INTERVALS = 3
"""Consecutive intervals without movement that count as settled."""
SETTLED_SHARE = 0.9
"""Share of modules whose k@90 must have stayed within 1 over all of them."""
SATURATED_AT = 7 / 8
"""A module is saturated when 90 % of its energy needs at least this share of its rank."""
SATURATED_SHARE = 0.5
"""Share of trained modules that must be saturated before the rank is called too small."""
UNUSED_AT = Fraction(1, 4)
"""The rank is far too large when nine modules of ten need at most this share of it."""


@dataclass(frozen=True, slots=True)
class RankPoint:
    """One measurement: allocated and needed ranks. The order of modules is the same throughout a series.

    ranks   allocated ranks
    needed  k@90 of each module; None if there is no spectrum (untrained, NaN)
    """

    step: int
    ranks: tuple[int, ...]
    needed: tuple[int | None, ...]

    @property
    def measured(self) -> list[tuple[int, int]]:
        """(rank, k@90) of the modules that have a spectrum."""
        return [(r, k) for r, k in zip(self.ranks, self.needed, strict=True) if k is not None]

    def needed_percentile(self, percent: int) -> float | None:
        """Return a percentile of k@90 over modules; None if nothing was measured."""
        needed = [k for _, k in self.measured]
        return float(percentile(needed, percent)) if needed else None

    def used_percentile(self, percent: int) -> Fraction | None:
        """Exact percentile of k@90 / r over modules."""
        used = [Fraction(k, r) for r, k in self.measured]
        return percentile(used, percent) if used else None

    def saturated(self) -> list[int]:
        """Indices of the modules that need (nearly) all of their rank. Rank 1 cannot be judged."""
        return [
            i
            for i, (r, k) in enumerate(zip(self.ranks, self.needed, strict=True))
            if k is not None and r > 1 and k >= math.ceil(SATURATED_AT * r)
        ]


def settled_since(points: Iterable[RankPoint]) -> int | None:
    """Return the step since which the needed ranks have not changed, or None while they change.

    Only the last SETTLED_INTERVALS intervals are looked at: the answer is the oldest step of them.
    """
    window = list(points)[-(SETTLED_INTERVALS + 1) :]
    if len(window) <= SETTLED_INTERVALS:
        return None
    columns = list(zip(*(point.needed for point in window), strict=True))
    known = [[k for k in column if k is not None] for column in columns]
    whole = [column for column in known if len(column) == len(window)]
    if not whole or len(whole) < SETTLED_SHARE * len(columns):
        return None
    steady = sum(max(column) - min(column) <= 1 for column in whole)
    return window[0].step if steady >= SETTLED_SHARE * len(whole) else None


def too_small(point: RankPoint) -> bool:
    """Return True if at least half of the trained modules need nearly all of their rank."""
    trained = len(point.measured)
    return trained > 0 and len(point.saturated()) >= SATURATED_SHARE * trained


def too_large(point: RankPoint) -> bool:
    """Return True if nine modules of ten need at most a quarter of their rank, and the rank is above 2."""
    share = point.used_percentile(90)
    return share is not None and max(point.ranks) > 2 and share <= UNUSED_AT
