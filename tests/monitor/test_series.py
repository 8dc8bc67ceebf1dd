"""A bounded series tells the same about a short and a long run."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gradience.monitor.series import MAX_BUCKETS, Series

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000)


def filled(numbers):
    series = Series()
    for step, value in enumerate(numbers):
        series.add(step, value)
    return series


@given(values)
@example([math.sin(step) for step in range(5 * MAX_BUCKETS)])
def test_extremes_and_count_are_exact_and_memory_is_bounded(numbers):
    series = filled(numbers)
    assert len(series.buckets) <= MAX_BUCKETS
    assert series.count == len(numbers)
    assert series.lowest.low == min(numbers)
    assert series.highest.high == max(numbers)
    assert numbers[series.lowest.low_step] == min(numbers)
    assert numbers[series.highest.high_step] == max(numbers)
    assert series.last == numbers[-1]
    assert series.level(0, 1) == pytest.approx(sum(numbers) / len(numbers), rel=1e-9, abs=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_counted_and_left_out(bad):
    series = filled([1.0, bad, 3.0, bad])
    assert (series.count, series.nonfinite, series.first_nonfinite_step) == (2, 2, 1)
    assert series.level(0, 1) == 2.0
    assert not math.isfinite(series.last)


def test_dropping_what_a_resumed_run_writes_again():
    series = filled([3.0, 2.0, math.nan, 1.0])
    series.drop_after(1)
    assert (series.count, series.nonfinite, series.last, series.last_step) == (2, 0, 2.0, 1)
    series.add(2, 1.5)
    assert [b.mean for b in series.buckets] == [3.0, 2.0, 1.5]
