"""The table behind a plot: every value of every series, as figures."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.reports.base.blocks import Column, Inline, Span, Table
from gradience.reports.base.numbers import MISSING, percent, plain
from gradience.reports.plots.plot import Axis, Image, Intervals, Lines, Plot, Points

Row = tuple[Inline, ...]


def shown(value: float | None, axis: Axis) -> str:
    """Return a value as figures, in the form of its axis."""
    if value is None:
        return MISSING
    return percent(value) if axis.form == "share" else plain(value)


def table_of(plot: Plot) -> Table:
    """Return one table for a plot: a column for each series if all have points at the same positions,
    otherwise a row for each point, with the name of its series."""
    first = plot.series[0]
    if isinstance(first, Image):
        columns = [Column(plot.y.label), *map(_figures, plot.x.categories)]
        return Table(
            columns,
            [
                (Span(name, "name"), *(shown(value, first.color) for value in row))
                for name, row in zip(plot.y.categories, first.values, strict=True)
            ],
        )
    if isinstance(first, Intervals):
        return _forest(plot, first)
    points = [series for series in plot.series if isinstance(series, Points) and series.labels]
    return _named_points(plot, points) if len(points) == len(plot.series) else _curves(plot)


def _forest(plot: Plot, forest: Intervals) -> Table:
    rows: list[Row] = [
        (Span(name, "name"), *(shown(end, plot.x) for end in (row.value, row.low, row.high)))
        for name, row in zip(plot.y.categories, forest.rows, strict=True)
    ]
    return Table([Column(plot.y.label), *map(_figures, (plot.x.label, "from", "to"))], rows)


def _named_points(plot: Plot, series: Sequence[Points]) -> Table:
    """Return a row for each point with its name and its interval."""
    rows: list[Row] = []
    for points in series:
        for place, (x, y, label) in enumerate(zip(points.x, points.y, points.labels, strict=True)):
            ends = (points.low[place], points.high[place]) if points.low else (None, None)
            interval = ("", "") if None in ends else (shown(end, plot.y) for end in ends)
            rows.append((Span(label, "name"), points.name, shown(x, plot.x), shown(y, plot.y), *interval))
    columns = [Column("name"), Column("series"), Column(plot.x.label, ">"), _figures(plot.y.label)]
    return Table([*columns, _figures("from"), _figures("to")], rows)


def _curves(plot: Plot) -> Table:
    """Return a table of lines, and of points without names of their own."""
    curves: list[tuple[str, Sequence[float], list[Sequence[float | None]]]] = []
    for series in plot.series:
        if isinstance(series, Lines | Points):
            ends = [series.low, series.high] if series.low else []
            curves.append((series.name, series.x, [series.y, *ends]))
    rows: list[Row]
    if len({tuple(at) for _, at, _ in curves}) == 1:
        titles = [
            f"{name or plot.y.label}{end}"
            for name, _, figures in curves
            for end in ("", ", from", ", to")[: len(figures)]
        ]
        columns = [column for _, _, figures in curves for column in figures]
        rows = [
            (shown(at, plot.x), *(shown(column[number], plot.y) for column in columns))
            for number, at in enumerate(curves[0][1])
        ]
        return Table([Column(plot.x.label, ">"), *map(_figures, titles)], rows)
    rows = [
        (Span(name, "name"), shown(at, plot.x), *(shown(value, plot.y) for value in point))
        for name, x, figures in curves
        for at, *point in zip(x, *figures, strict=True)
    ]
    banded = any(len(figures) > 1 for _, _, figures in curves)
    extra = [_figures("from"), _figures("to")] if banded else []
    return Table([Column("series"), Column(plot.x.label, ">"), _figures(plot.y.label), *extra], rows)


def _figures(title: str) -> Column:
    return Column(Span(title, "name"), ">")
