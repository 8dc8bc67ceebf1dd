"""A series of any length in bounded memory: exact while it is short, ever wider buckets as it grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

MAX_BUCKETS = 512


@dataclass(slots=True)
class Bucket:
    """`count` neighboring points."""

    first_step: int
    last_step: int
    count: int
    total: float
    low: float
    low_step: int
    high: float
    high_step: int

    @property
    def mean(self) -> float:
        return self.total / self.count

    def absorb(self, later: Bucket) -> None:
        """Take the points of the next bucket in."""
        self.last_step = later.last_step
        self.count += later.count
        self.total += later.total
        if later.low < self.low:
            self.low, self.low_step = later.low, later.low_step
        if later.high > self.high:
            self.high, self.high_step = later.high, later.high_step


@dataclass(slots=True)
class Series:
    """Numbers over steps. NaN and infinity are counted, not averaged."""

    buckets: list[Bucket] = field(default_factory=list)
    nonfinite: int = 0
    first_nonfinite_step: int | None = None
    last: float | None = None
    """The last value, NaN included."""
    last_step: int | None = None
    _width: int = 1
    """Points that a full bucket holds."""

    def add(self, step: int, value: float) -> None:
        """Add the next point."""
        self.last, self.last_step = value, step
        if not math.isfinite(value):
            self.nonfinite += 1
            if self.first_nonfinite_step is None:
                self.first_nonfinite_step = step
            return
        point = Bucket(step, step, 1, value, value, step, value, step)
        if self.buckets and self.buckets[-1].count < self._width:
            self.buckets[-1].absorb(point)
            return
        if len(self.buckets) == MAX_BUCKETS:
            for left, right in zip(self.buckets[::2], self.buckets[1::2], strict=True):
                left.absorb(right)
            del self.buckets[1::2]
            self._width *= 2
        self.buckets.append(point)

    def drop_after(self, step: int) -> None:
        """Discard values after `step`: a resumed run writes those steps again.

        Exact while buckets hold one point; a wider bucket across the border is kept.
        """
        self.buckets = [bucket for bucket in self.buckets if bucket.first_step <= step]
        if self.first_nonfinite_step is not None and self.first_nonfinite_step > step:
            self.nonfinite, self.first_nonfinite_step = 0, None
        if self.last_step is not None and self.last_step > step:
            self.last = self.buckets[-1].mean if self.buckets else None
            self.last_step = self.buckets[-1].last_step if self.buckets else None

    @property
    def count(self) -> int:
        """Finite points."""
        return sum(bucket.count for bucket in self.buckets)

    @property
    def first(self) -> float | None:
        """The first finite value (the mean of the first bucket if the series is long)."""
        return self.buckets[0].mean if self.buckets else None

    @property
    def lowest(self) -> Bucket | None:
        """The bucket that holds the smallest value, as `low` at `low_step`."""
        return min(self.buckets, key=lambda bucket: bucket.low, default=None)

    @property
    def highest(self) -> Bucket | None:
        """The bucket that holds the largest value, as `high` at `high_step`."""
        return max(self.buckets, key=lambda bucket: bucket.high, default=None)

    def part(self, start: float, end: float) -> Sequence[Bucket]:
        """Return the buckets between two fractions of the series, at least one if there is any."""
        n = len(self.buckets)
        low = min(int(start * n), max(n - 1, 0))
        return self.buckets[low : max(low + 1, math.ceil(end * n))]

    def level(self, start: float, end: float) -> float | None:
        """Return the mean of the points between two fractions of the series."""
        part = self.part(start, end)
        count = sum(bucket.count for bucket in part)
        return sum(bucket.total for bucket in part) / count if count else None

    def median(self) -> float | None:
        """Return the median of the bucket means."""
        return median(bucket.mean for bucket in self.buckets) if self.buckets else None
