"""Smaller adapters against their original: the forest plot of their differences, what each size costs, and the counts
of examples that only one of the two has correct."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.plots.compared import Compared, Comparing, Row, compared
from gradience.report.plots.plot import (
    Axis,
    BarsOf,
    Interval,
    Intervals,
    Lines,
    Plot,
    Points,
    Reference,
    Series,
    Tone,
)
from gradience.reports.base.numbers import count, plural, signed
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate

NAMES = Axis("", scale="categories")
LABELS = 0.16
"""Share of the axis that is left for the names of lines at its end."""
FAR = 0.5
"""Of the span of the candidates: what lies further beyond them is named in place of drawn."""
WORDS: dict[Tone, str] = {
    "good": "supported",
    "warn": "not shown to hold",
    "bad": "inferior or failed",
}
BY_STATUS: dict[Tone, str] = {"good": "passes", "warn": "not concluded", "bad": "fails"}
"""Where nothing is graded: what the policy says of one seed."""
STATUS = {"shown": "shown to hold", "not shown": "not shown to hold"}
"""Of a rung, in words that stand alone."""


def forest_plot(report: Comparing) -> Plot | None:
    """Return Δ of each adapter with its interval, beside 0 and the margin."""
    outcome = compared(report)
    if all(row.low is None and row.high is None for row in outcome.rows):
        return None
    judged = [row for row in outcome.rows if row.tone != "dim"] or outcome.rows
    far = _far(outcome, judged)
    rows = [
        Interval(
            f"{row.name}{row.aside}", row.delta, row.low, row.high, row.tone, _said(row, outcome), row.inner
        )
        for row in outcome.rows
        if row not in far
    ]
    heavy = f" Heavy lines: {outcome.inner}." if outcome.inner else ""
    beyond = ", ".join(f"{row.name} ({signed(row.delta)})" for row in far)
    inside = [row for row in judged if _holds(row, outcome)]
    result = (
        f"{len(inside)} of {plural(len(judged), 'adapter')} {'lies' if len(judged) == 1 else 'lie'} on the safe side of"
        f" the margin with {outcome.deciding}."
        if any(row.tone != "dim" for row in outcome.rows)
        else "None of them is a candidate."
    )
    return Plot(
        "forest",
        f"{outcome.what}, with {outcome.interval}",
        Axis(outcome.what, outcome.unit),
        NAMES,
        [Intervals(outcome.interval, rows, outcome.inner)],
        f"{result}{heavy}{f' Too far away to be drawn: {beyond}.' if far else ''}",
        [Reference(0.0, "", on="x"), *_limit(outcome, "x")],
    )


def pareto_plot(report: Comparing) -> Plot | None:
    """Return the LoRA parameters that each candidate keeps, and what it costs; nothing where no size is known."""
    outcome = compared(report)
    rows = [row for row in outcome.rows if row.saved is not None and row.tone != "dim"]
    if not rows:
        return None
    series: list[Series] = []
    # Where names crowd, the smallest keeps its own: it is given a place first.
    by_size = sorted(rows, key=lambda row: (-(row.saved or 0.0), row.name != outcome.chosen))
    for tone, words in (BY_STATUS if outcome.by_status else WORDS).items():
        of_tone = [row for row in by_size if row.tone == tone]
        if of_tone:
            kept = [1 - (row.saved or 0.0) for row in of_tone]
            series.append(
                Points(
                    words,
                    kept,
                    [row.delta for row in of_tone],
                    [row.name for row in of_tone],
                    tone=tone,
                    hover=[_said(row, outcome) for row in of_tone],
                )
            )
            series += [
                Lines("", [at, at], list(outcome.bounds(row)), tone=tone)
                for at, row in zip(kept, of_tone, strict=True)
                if None not in outcome.bounds(row)
            ]
    left, right = _room([1 - (row.saved or 0.0) for row in rows], 0.12)
    right += LABELS * (right - left)
    ends = [end for row in rows for end in (row.delta, *outcome.bounds(row)) if end is not None]
    low, high = _room([0.0, *ends, *(line.at for line in _limit(outcome, "y"))], 0.06)
    return Plot(
        "pareto",
        f"{outcome.what} by size",
        Axis("LoRA parameters kept", low=max(0.0, left), high=right, form="share"),
        Axis(outcome.what, outcome.unit, low=low, high=high),
        series,
        _smallest(rows, outcome),
        [Reference(0.0, "original"), *_limit(outcome, "y")],
    )


def _smallest(rows: Sequence[Row], outcome: Compared) -> str:
    """The smallest that is supported, else the smallest and that none is; and what the upright lines are."""
    supported = [row for row in rows if row.tone == "good"]
    row = max(supported or rows, key=lambda row: (row.saved or 0.0, row.name == outcome.chosen))
    verb = "passes" if outcome.by_status else "is supported"
    which = f"The smallest that {verb}" if supported else f"None {verb}; the smallest"
    lines = f" Lines: {outcome.deciding}." if any(None not in outcome.bounds(row) for row in rows) else ""
    return (
        f"{which}, {row.name}, keeps {100 * (1 - (row.saved or 0.0)):.1f} % of the LoRA parameters, with"
        f" {outcome.what} {signed(row.delta)} {outcome.unit}.{lines}"
    )


def pairs_plot(report: Comparing) -> Plot | None:
    """Return how many examples only the original, and only the smaller adapter, has correct."""
    outcome = compared(report)
    rows = [row for row in outcome.rows if row.lost is not None and row.gained is not None]
    if not any(row.lost or row.gained for row in rows):
        return None
    places = list(range(len(rows)))
    lost, gained = [row.lost or 0 for row in rows], [row.gained or 0 for row in rows]
    judged = [row for row in rows if row.tone != "dim"] or rows
    mean = " in the mean" if outcome.counted != "examples" else ""
    return Plot(
        "pairs",
        "Examples that only one of the two has correct",
        Axis(outcome.counted, low=0.0, form="count"),
        Axis("", scale="categories", categories=[row.name for row in rows]),
        [
            BarsOf("only the original", places, lost, lying=True, tone="bad"),
            BarsOf("only this one", places, gained, lying=True, tone="good"),
        ],
        f"{_range([row.lost or 0 for row in judged])} that only the original has correct,"
        f" {_range([row.gained or 0 for row in judged])} that only the other has{mean}.",
    )


def _range(numbers: Sequence[float]) -> str:
    """`3 to 8 examples`, of each adapter."""
    low, high = round(min(numbers)), round(max(numbers))
    return plural(high, "example") if low == high else f"{count(low)} to {plural(high, 'example')}"


def ladder_plot(report: Bench | BenchAggregate) -> Plot | None:
    """Return the rungs with the lower bound that was held against the margin; nothing without a ladder."""
    ladder = report.ladder
    if ladder is None:
        return None
    tones: dict[str, Tone] = {"shown": "good", "not shown": "warn"}
    rows = [
        Interval(
            f"{rung.name} ({STATUS.get(rung.status, rung.status)})",
            None if rung.delta is None else 100 * rung.delta,
            None if rung.low is None else 100 * rung.low,
            None,
            tones.get(rung.status, "dim"),
            rung.reason,
        )
        for rung in ladder.rungs
    ]
    where = "a new run" if ladder.bound == "new-run" else "these runs"
    return Plot(
        "ladder",
        "Ladder: the smallest rank that holds",
        Axis("Δ of correct answers", "points"),
        NAMES,
        [Intervals(f"lower bound of {where}, 95 %", rows)],
        f"{ladder.sentence[0].upper()}{ladder.sentence[1:]}.",
        [
            Reference(0.0, "", on="x"),
            Reference(-100 * float(ladder.margin), "margin", on="x", tone="bad"),
        ],
    )


def _far(outcome: Compared, judged: Sequence[Row]) -> list[Row]:
    """Controls, and the base alone, that would press all candidates together: by more than `FAR` of the span."""
    ends = [0.0 if outcome.limit is None else outcome.limit, 0.0]
    ends += [end for row in judged for end in (row.delta, row.low, row.high) if end is not None]
    room = FAR * (max(ends) - min(ends))
    return [
        row
        for row in outcome.rows
        if row not in judged and not min(ends) - room <= row.delta <= max(ends) + room
    ]


def _holds(row: Row, outcome: Compared) -> bool:
    """Whether its interval lies on the safe side of the margin."""
    if outcome.limit is None:
        return False
    low, high = outcome.bounds(row)
    end = low if outcome.better == "higher" else high
    return end is not None and (end > outcome.limit if outcome.better == "higher" else end < outcome.limit)


def _room(values: Sequence[float], share: float) -> tuple[float, float]:
    """The ends of an axis with room beyond the values, a share of their span."""
    room = share * (max(values) - min(values)) or 0.1 * abs(values[0]) or 0.1
    return min(values) - room, max(values) + room


def _limit(outcome: Compared, on: str) -> Sequence[Reference]:
    if outcome.limit is None:
        return []
    return [Reference(outcome.limit, "margin", on="x" if on == "x" else "y", tone="bad")]


def _said(row: Row, outcome: Compared) -> str:
    interval = "" if row.low is None else f" ({signed(row.low)} … {signed(row.high)})"
    figures = f"{outcome.what} {signed(row.delta)} {outcome.unit}{interval}"
    return "\n".join(filter(None, (row.name, figures, row.said)))
