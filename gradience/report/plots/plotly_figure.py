"""A plot for a notebook: drawn by plotly.

Plotly reads a few tags in every text that it shows, so that all text is escaped here, in one place.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gradience.errors import require
from gradience.report.names import display_name
from gradience.report.plots.palette import SHADES, TONES, series_color
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
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Trace = dict[str, Any]

NAME = 80
"""Characters of a name in a plot."""
ROW, LEAST = 24, 420
"""Pixels of a row of names, and of a figure at least."""
FAINT = 0.18
"""Opacity of a band."""
FORMATS = {"share": ".0%", "bytes": "~s", "number": ""}


def figure_of(plots: Sequence[Plot]) -> Figure:
    """Return plotly's figure of one plot. Raises MissingExtra without plotly."""
    (plot,) = plots
    figure: Figure = require("plotly.graph_objects", extra="plots").Figure(plotly_dict(plot))
    return figure


def plotly_dict(plot: Plot) -> dict[str, Any]:
    """Return the plot as plotly's JSON has it: `data` and `layout`."""
    traces = [trace for place, series in enumerate(plot.series) for trace in _traces(series, place)]
    rows = [len(one.rows) for one in plot.series if isinstance(one, Intervals)] or [len(plot.y.categories)]
    stacked = any(isinstance(one, BarsOf) and one.stacked for one in plot.series)
    layout = {
        "title": {"text": _text(plot.title, 160)},
        "template": "plotly_white",
        "height": max(LEAST, 160 + ROW * rows[0]),
        "barmode": "stack" if stacked else "group",
        "showlegend": sum(bool(trace.get("name")) and trace.get("showlegend", True) for trace in traces) > 1,
        "xaxis": _axis(plot.x),
        "yaxis": _axis(plot.y) | _rows_down(plot),
        "shapes": [_shape(reference) for reference in plot.references],
        "annotations": [_label(reference, plot) for reference in plot.references if reference.label],
    }
    return {"data": traces, "layout": layout}


# ---------------------------------------------------------------- series


def _traces(series: Series, place: int) -> list[Trace]:
    match series:
        case Lines():
            return _lines(series, place)
        case Points():
            return [_points(series, place)]
        case BarsOf():
            return [_bars(series, place)]
        case Histogram():
            return [_histogram(series, place)]
        case Intervals():
            return _intervals(series, place)
        case Image():
            return [_image(series)]


def _lines(series: Lines, place: int) -> list[Trace]:
    color = series_color(series.tone, series.shade, place)
    line: Trace = {
        "type": "scatter",
        "mode": "lines+markers" if series.marked else "lines",
        "name": _text(series.name),
        "showlegend": bool(series.name),
        "x": list(series.x),
        "y": list(series.y),
        "line": {
            "color": color,
            "dash": "dash" if series.dashed else "solid",
            "shape": "hv" if series.step else "linear",
        },
        **_hover(series.hover),
    }
    if not series.low or not series.high:
        return [line]
    edge: Trace = {
        "type": "scatter",
        "mode": "lines",
        "x": list(series.x),
        "line": {"width": 0, "color": color},
        "showlegend": False,
        "hoverinfo": "skip",
    }
    low = edge | {"y": list(series.low)}
    return [low, edge | {"y": list(series.high), "fill": "tonexty", "fillcolor": _faint(color)}, line]


def _points(series: Points, place: int) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers+text" if series.labels else "markers",
        "name": _text(series.name),
        "x": list(series.x),
        "y": list(series.y),
        "text": [_text(label) for label in series.labels],
        "textposition": "top right",
        "marker": {"color": series_color(series.tone, series.shade, place), "size": 9},
        **_hover(series.hover),
    }


def _bars(series: BarsOf, place: int) -> Trace:
    at, values = list(series.at), list(series.values)
    return {
        "type": "bar",
        "name": _text(series.name),
        "orientation": "h" if series.lying else "v",
        "x": values if series.lying else at,
        "y": at if series.lying else values,
        "marker": {"color": series_color(series.tone, None, place)},
        **_hover(series.hover),
    }


def _histogram(series: Histogram, place: int) -> Trace:
    edges = list(series.edges)
    ends = list(pairwise(edges))
    return {
        "type": "bar",
        "name": _text(series.name),
        "x": [(low + high) / 2 for low, high in ends],
        "width": [high - low for low, high in ends],
        "y": list(series.counts),
        "marker": {"color": series_color(series.tone, None, place)},
    }


def _intervals(series: Intervals, place: int) -> list[Trace]:
    """A trace for each row, which has its own colour; an open end goes as far as any."""
    known = [value for row in series.rows for value in (row.value, row.low, row.high) if value is not None]
    least, most = min(known, default=0.0), max(known, default=0.0)
    traces = []
    for at, row in enumerate(series.rows):
        if row.value is None:
            continue
        color = series_color(row.tone, None, place)
        low, high = (least if row.low is None else row.low), (most if row.high is None else row.high)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": _text(row.label),
                "showlegend": False,
                "x": [row.value],
                "y": [at],
                "marker": {"color": color, "size": 9},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - row.value],
                    "arrayminus": [row.value - low],
                    "color": color,
                },
                **_hover([row.hover] if row.hover else []),
            }
        )
    return traces


def _image(image: Image) -> Trace:
    return {
        "type": "heatmap",
        "z": [list(row) for row in image.values],
        "zmin": image.color.low,
        "zmax": image.color.high,
        "colorscale": [[step / (len(SHADES) - 1), color] for step, color in enumerate(SHADES)],
        "colorbar": {
            "title": {"text": _text(image.color.label)},
            "tickformat": FORMATS[image.color.form],
        },
        **(
            {"text": [[_said(cell) for cell in row] for row in image.hover], "hoverinfo": "text"}
            if image.hover
            else {}
        ),
    }


# ---------------------------------------------------------------- layout


def _axis(axis: Axis) -> dict[str, Any]:
    shown: dict[str, Any] = {"title": {"text": _text(axis.label, 160)}}
    if axis.scale == "categories":
        names = [_text(name) for name in axis.categories]
        return shown | {"tickvals": list(range(len(names))), "ticktext": names, "automargin": True}
    shown |= {"type": axis.scale, "tickformat": FORMATS[axis.form]}
    if axis.low is not None and axis.high is not None:
        shown["range"] = [math.log10(end) if axis.scale == "log" else end for end in (axis.low, axis.high)]
    elif axis.low == 0:
        shown["rangemode"] = "tozero"
    return shown


def _rows_down(plot: Plot) -> dict[str, Any]:
    """Rows of a forest plot and of a map begin at the top."""
    for series in plot.series:
        if isinstance(series, Intervals):
            names = [_text(row.label) for row in series.rows]
            return {
                "autorange": "reversed",
                "tickvals": list(range(len(names))),
                "ticktext": names,
                "automargin": True,
            }
        if isinstance(series, Image):
            return {"autorange": "reversed"}
    return {}


def _shape(reference: Reference) -> dict[str, Any]:
    across = "y" if reference.on == "x" else "x"
    along = {
        f"{reference.on}0": reference.at,
        f"{reference.on}1": reference.at,
        f"{across}0": 0,
        f"{across}1": 1,
    }
    line = {"color": TONES.get(reference.tone, TONES["dim"]), "dash": "dash", "width": 1}
    return {
        "type": "line",
        f"{across}ref": "paper",
        f"{reference.on}ref": reference.on,
        "line": line,
        **along,
    }


def _label(reference: Reference, plot: Plot) -> dict[str, Any]:
    axis = plot.x if reference.on == "x" else plot.y
    at = math.log10(reference.at) if axis.scale == "log" else reference.at
    look = {
        "text": _text(reference.label),
        "showarrow": False,
        "font": {"color": TONES.get(reference.tone, TONES["dim"])},
    }
    if reference.on == "x":
        return look | {"x": at, "y": 1, "yref": "paper", "yanchor": "bottom"}
    return look | {"y": at, "x": 1, "xref": "paper", "xanchor": "right", "yanchor": "bottom"}


# ---------------------------------------------------------------- text


def _text(text: str, most: int = NAME) -> str:
    """A name or a title: visible characters only, none of them markup."""
    return html.escape(display_name(text, most))


def _said(text: str) -> str:
    return "<br>".join(_text(line, 200) for line in text.split("\n"))


def _hover(texts: Sequence[str]) -> Trace:
    return {"hovertext": [_said(text) for text in texts], "hoverinfo": "text"} if texts else {}


def _faint(color: str) -> str:
    red, green, blue = bytes.fromhex(color[1:])
    return f"rgba({red}, {green}, {blue}, {FAINT})"
