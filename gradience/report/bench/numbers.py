"""Counts and shares of a Bench run in text. Where a verdict hangs on a count, the count is shown beside the share."""

from __future__ import annotations

from gradience import words
from gradience.reports.base.numbers import MISSING
from gradience.reports.bench_aggregate import Spread


def points(delta: float | None) -> str:
    """A difference of shares in percentage points, with its sign: −2.50."""
    return MISSING if delta is None else words.points(delta)


def counted_points(delta: float | None, exact: str | None) -> str:
    """`−2.50 (−5/200)`: the counts tell what the rounded points cannot."""
    if delta is None or exact is None:
        return MISSING
    sign = "−" if exact.startswith("-") else "+" if delta else ""
    return f"{points(delta)} ({sign}{exact.removeprefix('-')})"


def out_of(correct: int, n: int) -> str:
    """`1,813 / 2,186`."""
    return f"{correct:,} / {n:,}"


def mean_percent(spread: Spread | None) -> str:
    """`28.5 % ± 1.5`, the standard deviation over seeds; without ± for one seed."""
    if spread is None:
        return MISSING
    around = "" if spread.sd is None else f" ± {100 * spread.sd:.1f}"
    return f"{100 * spread.mean:.1f} %{around}"
