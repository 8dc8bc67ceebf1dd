"""A plot as the JSON of a plotly figure, for a page and a notebook: plain dicts and lists, without plotly itself.

plotly takes text as a small markup of its own, so that all text is escaped here, in one place. Colours of text and
lines around the plot are left to the page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from gradience.report.plots import labels
from gradience.report.plots.labels import PHONE, SCREEN, Place, label_places
from gradience.report.plots.palette import SHADES, series_color
from gradience.report.plots.plot import (
    Axis,
    BarsOf,
    Histogram,
    Image,
    Intervals,
    Lines,
    Plot,
    Points,
    Reference,
    Series,
    Tone,
)
from gradience.report.plots.table import bin_of, shown
from gradience.reports.base.names import display_name, fit_names

Json = dict[str, Any]
LABEL = 32
"""Characters of a name beside an axis; all of it stands in the table."""
SERIES = 60
"""Characters of the name of a series."""
TICKS, MOST_ROWS = 48, 60
"""Names beside an axis of categories, across the plot and down."""
HOVER_LINES = 12
FEW_COUNTS = 12
"""So many counts beside each other have a tick each."""
LEGEND, SHADED = 20, 10
"""Up to so many series are named in a legend; of those whose shade says their place fewer."""
GAPS = 64
"""Up to so many columns of a heat map are parted by a line of the page."""
BAND = 0.18
"""How opaque a band is."""
SYMBOLS: dict[Tone, str] = {"warn": "diamond", "bad": "x", "dim": "circle-open"}
"""Of marks that say something by their colour."""
DASHES = ("solid", "dash", "dot", "dashdot")
MARKS = ("circle", "square", "triangle-up", "diamond")
"""Of lines of several series, by their place: those with marks differ in these, the others in their dashes."""
PATTERNS = ("", "/", ".", "x", "-")
"""Of bars of several series: whoever does not see their colours tells them apart."""


def to_plotly(plot: Plot) -> Json:
    """Return `data` and `layout` of a plotly figure without its title. No value is NaN: JSON."""
    span = _span(plot)
    data = [trace for place, one in enumerate(plot.series) for trace in _traces(plot, one, place, span)]
    layout: Json = {
        "xaxis": _axis(plot.x, span, TICKS) | _whole_ticks(plot),
        "yaxis": _axis(_y_axis(plot), None, MOST_ROWS) | _downwards(plot),
        "showlegend": 1 < sum(trace.get("showlegend", True) for trace in data) <= _most_named(plot),
        "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        "hovermode": "closest",
        "margin": {"l": 60, "r": 20, "t": 28, "b": 52},
        "shapes": [_line(reference) for reference in plot.references],
        "annotations": [_label(reference, plot) for reference in plot.references if reference.label],
    }
    bars = [one for one in plot.series if isinstance(one, BarsOf)]
    if bars:
        layout["barmode"] = "stack" if any(one.stacked for one in bars) else "group"
    if any(isinstance(one, Histogram) for one in plot.series):
        layout["bargap"] = 0.04
    return {"data": data, "layout": layout}


def _most_named(plot: Plot) -> int:
    shaded = any(isinstance(one, Lines) and one.shade is not None for one in plot.series)
    return SHADED if shaded else LEGEND


def title_of(plot: Plot) -> str:
    """Return the title as plotly shows it; a page writes it above the plot."""
    return _text(plot.title)


# ---------------------------------------------------------------- text and numbers


def _text(text: str, limit: int = 200) -> str:
    """Text that plotly shows as it is."""
    return html.escape(display_name(text, limit), quote=False)


def _hover(text: str) -> str:
    lines = text.split("\n")
    return "<br>".join(_text(line) for line in lines[:HOVER_LINES])


def _numbers(values: Iterable[float | None]) -> list[float | None]:
    """Six digits: no screen shows more."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


# ---------------------------------------------------------------- axes and reference lines


def _y_axis(plot: Plot) -> Axis:
    """The axis y; of a forest plot its rows are the categories."""
    for one in plot.series:
        if isinstance(one, Intervals):
            return Axis(plot.y.title, scale="categories", categories=[row.label for row in one.rows])
    return plot.y


def _downwards(plot: Plot) -> Json:
    """The first row of a forest plot, a heat map or lying bars stands at the top."""
    down = any(
        isinstance(one, Intervals | Image) or (isinstance(one, BarsOf) and one.lying) for one in plot.series
    )
    return {"autorange": "reversed"} if down else {}


def _axis(axis: Axis, span: tuple[float, float] | None, most: int) -> Json:
    drawn: Json = {
        "title": {"text": _text(axis.label), "standoff": 10},
        "automargin": True,
        "zeroline": False,
    }
    if axis.scale == "categories":
        count = len(axis.categories)
        every = max(1, -(-count // most))
        short = fit_names([display_name(name) for name in axis.categories], LABEL)
        names = [_text(name, 2 * LABEL) for name in short]  # some stay long, to stay apart
        drawn |= {"tickvals": list(range(0, count, every)), "ticktext": names[::every]}
        return drawn | {"showgrid": False}
    if axis.scale == "log":
        drawn |= {"type": "log", "exponentformat": "power", "dtick": 1}
    if axis.form == "share":
        drawn |= {"tickformat": ".0%", "hoverformat": ".1%"}
    elif axis.form == "bytes":
        drawn |= {"tickformat": "~s", "ticksuffix": "B", "hoverformat": ".4~s"}
    else:
        drawn |= {"hoverformat": ".4~g"}
    if span is not None:
        drawn["range"] = list(span)
    elif axis.low is not None and axis.high is not None:
        drawn["range"] = [_end(axis, axis.low), _end(axis, axis.high)]
    else:  # no range with one end: where a margin grows for a label, plotly 4.1 forgets that end
        ends = {"minallowed": _end(axis, axis.low), "maxallowed": _end(axis, axis.high)}
        known = {end: value for end, value in ends.items() if value is not None}
        drawn |= {"autorangeoptions": known} if known else {}
    return drawn


def _whole_ticks(plot: Plot) -> Json:
    """Where counts span so little that there would be ticks between them."""
    values = [value for one in plot.series if isinstance(one, Lines | Points) for value in one.x]
    few = plot.x.form == "count" and bool(values) and max(values) - min(values) <= FEW_COUNTS
    return {"dtick": 1} if few else {}


def _end(axis: Axis, value: float | None) -> float | None:
    """An end of an axis: plotly counts a logarithmic one in powers of ten."""
    if value is None or axis.scale != "log":
        return value
    return math.log10(value)


def _span(plot: Plot) -> tuple[float, float] | None:
    """Of a forest plot, the ends of x: an open interval is drawn up to there."""
    rows = [row for one in plot.series if isinstance(one, Intervals) for row in one.rows]
    if not rows:
        return None
    ends = [value for row in rows for value in (row.low, row.value, row.high) if value is not None]
    ends += [value for one in plot.series if isinstance(one, Points) for value in one.x]
    ends += [reference.at for reference in plot.references if reference.on == "x"]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    room = 0.08 * (high - low) or 1.0
    return low - room, high + room


def _line(reference: Reference) -> Json:
    across = {"xref": "paper", "x0": 0, "x1": 1, "y0": reference.at, "y1": reference.at}
    upright = {"yref": "paper", "y0": 0, "y1": 1, "x0": reference.at, "x1": reference.at}
    line = {"color": series_color(reference.tone, None, 0), "width": 1.5, "dash": "dash"}
    return {"type": "line", "line": line, **(across if reference.on == "y" else upright)}


def _label(reference: Reference, plot: Plot) -> Json:
    at = _end(plot.x if reference.on == "x" else plot.y, reference.at)
    place: Json = {"xref": "paper", "x": 1, "xanchor": "right", "y": at, "yanchor": "bottom"}
    if reference.on == "x":
        rows = any(
            isinstance(one, Intervals) for one in plot.series
        )  # the first would lie beneath an upright label
        beside = {"yanchor": "bottom"} if rows else {"yanchor": "top", "xanchor": "right", "textangle": -90}
        place = {"yref": "paper", "y": 1, "x": at, **beside}
    return {"text": _text(reference.label, LABEL), "showarrow": False, "font": {"size": 11}, **place}


# ---------------------------------------------------------------- series


def _traces(
    plot: Plot,
    series: Series,
    place: int,
    span: tuple[float, float] | None,
) -> list[Json]:
    match series:
        case Lines():
            return _lines(series, place)
        case Points():
            return [_points(plot, series, place)]
        case BarsOf():
            several = sum(isinstance(one, BarsOf) for one in plot.series) > 1
            return [_bars(series, place, PATTERNS[place % len(PATTERNS)] if several else "")]
        case Histogram():
            return [_histogram(plot, series, place)]
        case Intervals():
            return _intervals(plot, series, span or (0.0, 1.0))
        case Image():
            return [_image(plot, series)]


def _named(name: str, hover: Sequence[str], **rest: Any) -> Json:
    """A trace with its name; with texts of its own only these are shown of a point."""
    trace = {"name": _text(name, SERIES), "showlegend": bool(name), **rest}
    return trace | {"hovertext": [_hover(text) for text in hover], "hoverinfo": "text"} if hover else trace


def _lines(series: Lines, place: int) -> list[Json]:
    color = series_color(series.tone, series.shade, place)
    line = {"color": color, "width": 2, "shape": "hv" if series.step else "linear"}
    x, y = _numbers(series.x), _numbers(series.y)
    marked = series.marked or len(x) == 1
    if series.dashed:
        line["dash"] = "dash"
    elif series.shade is None and not series.tone and series.name and not marked:
        line["dash"] = DASHES[place % len(DASHES)]
    mode = "lines+markers" if marked else "lines"
    drawn = _named(series.name, series.hover, type="scatter", mode=mode, x=x, y=y, line=line)
    if marked:
        drawn["marker"] = {"symbol": MARKS[place % len(MARKS)], "size": 7}
    if not series.name:
        drawn["hoverinfo"] = "skip"  # the interval of a point, which says all of it
    ends = [
        (at, low, high)
        for at, low, high in zip(x, _numbers(series.low), _numbers(series.high), strict=False)
        if low is not None and high is not None
    ]
    if not ends:
        return [drawn]
    at, low, high = (list(column) for column in zip(*ends, strict=True))
    edge = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    red, green, blue = bytes.fromhex(color[1:])
    fill = {"fill": "tonexty", "fillcolor": f"rgba({red},{green},{blue},{BAND})"}
    return [{**edge, "x": at, "y": low}, {**edge, **fill, "x": at, "y": high}, drawn]


def _points(plot: Plot, series: Points, place: int) -> Json:
    """Marks with the names that have room; those that have it on a phone in `meta`, where a page takes them."""
    color = series_color(series.tone, series.shade, place)
    rest: Json = {"type": "scatter", "mode": "markers", "x": _numbers(series.x), "y": _numbers(series.y)}
    rest["marker"] = {"color": color, "size": 9, "symbol": SYMBOLS.get(series.tone, "circle")}
    if series.labels:
        screen, phone = (label_places(plot, canvas)[place] for canvas in (SCREEN, PHONE))
        rest |= {"mode": "markers+text", "cliponaxis": False, **_beside(series, screen)}
        rest["meta"] = _beside(series, phone)
    return _named(series.name, series.hover or series.labels, **rest)


def _beside(points: Points, places: Sequence[Place | None]) -> Json:
    names = [
        _text(label, labels.LABEL) if at else "" for label, at in zip(points.labels, places, strict=True)
    ]
    return {"text": names, "textposition": [at or "top center" for at in places]}


def _bars(series: BarsOf, place: int, pattern: str) -> Json:
    at, values = _numbers(series.at), _numbers(series.values)
    x, y = (values, at) if series.lying else (at, values)
    marker: Json = {"color": series_color(series.tone, None, place)}
    if pattern:
        marker["pattern"] = {"shape": pattern, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.4}
    way = "h" if series.lying else "v"
    return _named(series.name, series.hover, type="bar", orientation=way, x=x, y=y, marker=marker)


def _histogram(plot: Plot, series: Histogram, place: int) -> Json:
    pairs = list(zip(series.edges, series.edges[1:], strict=False))
    hover = [
        f"{bin_of(low, high, plot.x)}: {number}"
        for (low, high), number in zip(pairs, series.counts, strict=True)
    ]
    middles = _numbers((low + high) / 2 for low, high in pairs)
    widths = _numbers(high - low for low, high in pairs)
    marker = {"color": series_color(series.tone, None, place)}
    rest: Json = {"x": middles, "y": list(series.counts), "width": widths, "marker": marker}
    return _named(series.name, hover, type="bar", **rest)


def _intervals(plot: Plot, series: Intervals, span: tuple[float, float]) -> list[Json]:
    """The intervals as one line with gaps in each tone, then the values on them."""
    traces: list[Json] = []
    quiet: Json = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    tones: list[Tone] = sorted({row.tone for row in series.rows})
    for tone in tones:
        x: list[float | None] = []
        y: list[float | None] = []
        for place, row in enumerate(series.rows):
            if row.tone == tone and (row.low is not None or row.high is not None):
                low = span[0] if row.low is None else row.low
                high = span[1] if row.high is None else row.high
                x += [low, high, None]
                y += [place, place, None]
        line = {"color": series_color(tone, None, 0), "width": 3}
        traces.append({**quiet, "x": _numbers(x), "y": y, "line": line})
    for place, row in enumerate(series.rows):
        if row.inner is not None:
            line = {"color": series_color(row.tone, None, 0), "width": 7}
            traces.append({**quiet, "x": _numbers(row.inner), "y": [place, place], "line": line})
    hover = [
        row.hover
        or f"{row.label}\n{shown(row.value, plot.x)} ({shown(row.low, plot.x)} … {shown(row.high, plot.x)})"
        for row in series.rows
    ]
    marker = {
        "color": [series_color(row.tone, None, 0) for row in series.rows],
        "symbol": [SYMBOLS.get(row.tone, "circle") for row in series.rows],
        "size": 10,
    }
    places = list(range(len(series.rows)))
    rest: Json = {"x": _numbers(row.value for row in series.rows), "y": places, "marker": marker}
    return [
        *traces,
        _named(series.name, hover, type="scatter", mode="markers", **rest) | {"showlegend": False},
    ]


def _image(plot: Plot, series: Image) -> Json:
    scale = [[place / (len(SHADES) - 1), color] for place, color in enumerate(SHADES)]
    trace: Json = {
        "type": "heatmap",
        "z": [_numbers(row) for row in series.values],
        "colorscale": scale,
        "xgap": 1 if len(plot.x.categories) <= GAPS else 0,
        "ygap": 1,
        "showlegend": False,
        "colorbar": {"title": {"text": _text(series.color.label), "side": "top"}, "thickness": 12},
    }
    if series.color.form == "share":
        trace["colorbar"]["tickformat"] = ".0%"
    ends = {"zmin": series.color.low, "zmax": series.color.high}
    values = [value for row in series.values for value in row if value is not None]
    if any(end is not None for end in ends.values()):
        ends = {
            "zmin": min(values, default=0) if ends["zmin"] is None else ends["zmin"],
            "zmax": max(values, default=1) if ends["zmax"] is None else ends["zmax"],
        }
        trace |= ends
    if series.hover:
        trace |= {"hovertext": [[_hover(text) for text in row] for row in series.hover], "hoverinfo": "text"}
    return trace
