"""The table behind a plot: every value of every series, as figures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradience.report.plots.plot import (
    Axis,
    BarsOf,
    Histogram,
    Image,
    Intervals,
    Lines,
    Plot,
    Points,
    Series,
)
from gradience.reports.base.blocks import Column, Inline, Span, Table
from gradience.reports.base.numbers import MISSING, count, percent, plain, size

Row = tuple[Inline, ...]


def table_of(plot: Plot) -> Table:
    """Return one table for a plot: a column for each series where all have their points at the same places, otherwise
    a row for each point, with the name of its series."""
    series = plot.series
    if len(series) == 1 and isinstance(series[0], Image):
        return _image(plot, series[0])
    if len(series) == 1 and isinstance(series[0], Histogram):
        return _histogram(plot, series[0])
    if any(isinstance(one, Intervals) for one in series):
        return _intervals(plot)
    named = any(isinstance(one, Points) and one.labels for one in series)
    if named and not any(isinstance(one, Lines) and one.name for one in series):
        return _named_points(plot)
    if len({tuple(_places(one)) for one in series}) == 1:
        return _wide(plot)
    return _long(plot)


def shown(value: float | None, axis: Axis) -> str:
    """Return a value as figures, in the form of its axis; a position of categories as its name."""
    if value is None:
        return MISSING
    if axis.categories and float(value).is_integer() and 0 <= value < len(axis.categories):
        return axis.categories[int(value)]
    if axis.form == "share":
        return percent(value)
    return size(round(value)) if axis.form == "bytes" else plain(value)


def bin_of(low: float, high: float, axis: Axis) -> str:
    """Return a bin of a histogram in words: of counts those in it, such as `1` or `1 – 4`."""
    if axis.form == "count":
        low, high = math.ceil(low), math.floor(high)
    return shown(low, axis) if low == high else f"{shown(low, axis)} – {shown(high, axis)}"


# ---------------------------------------------------------------- shapes of tables


def _wide(plot: Plot) -> Table:
    places, values = _axes(plot)
    columns = [_head(places), *(_column(name) for one in plot.series for name in _column_names(one, values))]
    figures = [column for one in plot.series for column in _columns(one)]
    rows: list[Row] = [
        (_cell(at, places), *(_cell(column[number], values) for column in figures))
        for number, at in enumerate(_places(plot.series[0]))
    ]
    return Table(columns, rows)


def _long(plot: Plot) -> Table:
    places, values = _axes(plot)
    banded = any(isinstance(one, Lines) and one.low for one in plot.series)
    extra = [_column("from"), _column("to")] if banded else []
    rows: list[Row] = [
        (Span(one.name, "name"), *(_cell(at, places), *(_cell(value, values) for value in figures)))
        for one in plot.series
        for at, *figures in zip(_places(one), *_columns(one), strict=True)
    ]
    return Table([Column("series"), _head(places), _column(values.label), *extra], rows)


def _named_points(plot: Plot) -> Table:
    """A row for each point with its name; nameless upright lines are intervals of the points before them, in order."""
    rows: list[Row] = []
    lines = [one for one in plot.series if isinstance(one, Lines) and not one.name]
    for points in plot.series:
        if not isinstance(points, Points):
            continue
        for x, y, label in zip(points.x, points.y, points.labels, strict=True):
            interval = lines.pop(0).y if lines and lines[0].x[0] == x else ("", "")
            figures = [
                end if isinstance(end, str) else shown(end, plot.y) for end in (interval[0], interval[-1])
            ]
            rows.append((Span(label, "name"), points.name, shown(x, plot.x), shown(y, plot.y), *figures))
    ends = [_column("from"), _column("to")]
    return Table(
        [Column("name"), Column("series"), _head(plot.x), _column(plot.y.label), *ends],
        rows,
    )


def _image(plot: Plot, image: Image) -> Table:
    columns = [Column(plot.y.label), *(_column(name) for name in plot.x.categories)]
    rows: list[Row] = [
        (Span(name, "name"), *(shown(value, image.color) for value in row))
        for name, row in zip(plot.y.categories, image.values, strict=True)
    ]
    return Table(columns, rows)


def _histogram(plot: Plot, histogram: Histogram) -> Table:
    edges = histogram.edges
    rows = [
        (bin_of(low, high, plot.x), count(number))
        for low, high, number in zip(edges, edges[1:], histogram.counts, strict=False)
    ]
    return Table([Column(plot.x.label), _column(plot.y.label)], rows)


def _intervals(plot: Plot) -> Table:
    """The forest's rows, then the points that are drawn on them."""
    x = plot.x
    rows: list[Row] = []
    labels: list[str] = []
    for one in plot.series:
        if isinstance(one, Intervals):
            labels = [row.label for row in one.rows]
            rows += [
                (Span(row.label, "name"), one.name, *(shown(v, x) for v in (row.value, row.low, row.high)))
                for row in one.rows
            ]
            rows += [
                (Span(row.label, "name"), one.inner, "", *(shown(v, x) for v in row.inner))
                for row in one.rows
                if row.inner is not None
            ]
    for one in plot.series:
        if isinstance(one, Points):
            rows += [
                (Span(shown(y, Axis("", categories=labels)), "name"), one.name, shown(at, x))
                for at, y in zip(one.x, one.y, strict=True)
            ]
    head = [Column(plot.y.label), Column("series"), _column(x.label), _column("from"), _column("to")]
    return Table(head, rows)


# ---------------------------------------------------------------- parts


def _axes(plot: Plot) -> tuple[Axis, Axis]:
    """The axis of the places, and that of the values."""
    lying = any(isinstance(one, BarsOf) and one.lying for one in plot.series)
    return (plot.y, plot.x) if lying else (plot.x, plot.y)


def _places(series: Series) -> Sequence[float]:
    match series:
        case Lines() | Points():
            return series.x
        case BarsOf():
            return series.at
        case Histogram():
            return series.edges[:-1]
        case Intervals() | Image():
            return ()


def _columns(series: Series) -> list[Sequence[float | None]]:
    """The values at each place; of a line with a band also its ends."""
    match series:
        case Lines():
            return [series.y, *(ends for ends in (series.low, series.high) if ends)]
        case Points():
            return [series.y]
        case BarsOf():
            return [series.values]
        case Histogram():
            return [series.counts]
        case Intervals() | Image():
            return []


def _column_names(series: Series, values: Axis) -> list[str]:
    name = series.name or values.label
    banded = isinstance(series, Lines) and series.low
    return [name, f"{name}, from", f"{name}, to"] if banded else [name]


def _cell(value: float | None, axis: Axis) -> Inline:
    text = shown(value, axis)
    return Span(text, "name") if axis.categories else text


def _head(axis: Axis) -> Column:
    return Column(axis.label, "<" if axis.categories else ">")


def _column(title: str) -> Column:
    return Column(Span(title, "name"), ">")
