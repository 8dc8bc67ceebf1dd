"""The table behind a plot: every value of every series, as figures."""

from collections.abc import Sequence

from gradience.reports.base.blocks import Column, Inline, Span, Table
from gradience.reports.base.numbers import MISSING, percent, plain
from gradience.reports.plots.plot import Axis, Image, Intervals, Lines, Plot, Points
from gradience.words import points

Row = tuple[Inline, ...]


def shown(value: float | None, axis: Axis) -> str:
    """Return a value as figures, in the form of its axis."""
    if value is None:
        return MISSING
    if axis.unit == "points":
        return points(value / 100)
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
    named = [series for series in plot.series if isinstance(series, Points) and series.labels]
    return _named_points(plot, named) if len(named) == len(plot.series) else _curves(plot)


def _forest(plot: Plot, forest: Intervals) -> Table:
    rows: list[Row] = [
        (Span(name, "name"), *(shown(end, plot.x) for end in (row.value, row.low, row.high)))
        for name, row in zip(plot.y.categories, forest.rows, strict=True)
    ]
    return Table([Column(plot.y.label), *map(_figures, (plot.x.label, "from", "to"))], rows)


def _named_points(plot: Plot, series: Sequence[Points]) -> Table:
    """Return a row for each point with its name."""
    rows: list[Row] = [
        (Span(label, "name"), named.name, shown(x, plot.x), shown(y, plot.y))
        for named in series
        for x, y, label in zip(named.x, named.y, named.labels, strict=True)
    ]
    columns = [Column("name"), Column("series"), Column(plot.x.label, ">"), _figures(plot.y.label)]
    return Table(columns, rows)


def _curves(plot: Plot) -> Table:
    """Return a table of lines, and of points without names of their own."""
    curves = [series for series in plot.series if isinstance(series, Lines | Points)]
    rows: list[Row]
    if len({tuple(series.x) for series in curves}) == 1:
        rows = [
            (shown(at, plot.x), *(shown(series.y[number], plot.y) for series in curves))
            for number, at in enumerate(curves[0].x)
        ]
        titles = [_figures(series.name or plot.y.label) for series in curves]
        return Table([Column(plot.x.label, ">"), *titles], rows)
    rows = [
        (Span(series.name, "name"), shown(x, plot.x), shown(y, plot.y))
        for series in curves
        for x, y in zip(series.x, series.y, strict=True)
    ]
    return Table([Column("series"), Column(plot.x.label, ">"), _figures(plot.y.label)], rows)


def _figures(title: str) -> Column:
    return Column(Span(title, "name"), ">")
