"""A plot as the JSON of a plotly figure for a page, without plotly itself.

plotly reads text as a small markup language, so all text is escaped here, in one place. The page sets the colors of
text and lines around the plot.
"""

import html
from collections.abc import Iterable, Iterator
from typing import Any

from gradience.reports.base.blocks import Tone
from gradience.reports.base.names import display_name, fit_names
from gradience.reports.plots import plot as model

Json = dict[str, Any]
LABEL = 32
"""Characters of a name beside an axis."""
SERIES_NAME = 60
"""Characters of the name of a series."""
TICKS, MOST_ROWS = 48, 60
"""Maximum number of category names across the plot, and down."""
FEW_COUNTS = 12
"""Maximum range of counts for which each count has a tick."""
LEGEND = 20
"""Maximum number of series in a legend."""
GAPS = 64
"""Maximum number of heat map columns that are separated by a gap."""
SYMBOLS: dict[Tone, str] = {"warn": "diamond", "bad": "x", "dim": "square"}
"""Symbols of marks with a tone, so that tones do not differ only in color."""
DASHES = ("solid", "dash", "dot", "dashdot")
MARKS = ("circle", "square", "triangle-up", "diamond")
"""Marks of several line series, by their position: series with marks differ in these, the others in their dashes."""
QUIET: Json = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
"""An auxiliary line of a different trace."""


def to_plotly(plot: model.Plot) -> Json:
    """Return `data` and `layout` of a plotly figure without its title. No value is NaN: JSON."""
    data: list[Json] = []
    sides = model.sides_of_labels(plot)
    for place, series in enumerate(plot.series):
        match series:
            case model.Lines():
                data.append(_lines(series, place))
            case model.Points():
                data.append(_points(series, place, sides))
            case model.Intervals():
                data += _intervals(series)
            case model.Image():
                data.append(_image(plot, series))
    named = sum(trace.get("showlegend", True) for trace in data)
    x, y = _axis(plot.x, TICKS), _axis(plot.y, MOST_ROWS)
    values = [value for series in plot.series if isinstance(series, model.Lines) for value in series.x]
    if plot.x.form == "count" and values and max(values) - min(values) <= FEW_COUNTS:
        x["dtick"] = 1  # no ticks between whole numbers
    if plot.y.categories:
        y["autorange"] = "reversed"
    labeled = bool(plot.y.categories) and any(reference.on == "x" for reference in plot.references)
    layout: Json = {
        "xaxis": x,
        "yaxis": y,
        "showlegend": plot.least_named <= named <= LEGEND,
        "legend": {"orientation": "h", "x": 0, "y": 1, "traceorder": "normal"}
        # leave room for labels of vertical lines below the legend
        | ({"yref": "container", "yanchor": "top"} if labeled else {"yanchor": "bottom"}),
        "hovermode": "closest",
        "margin": {"l": 60, "r": 20, "t": 48 if labeled else 28, "b": 52},
        "shapes": [_line(reference) for reference in plot.references],
        "annotations": [_label(reference, plot) for reference in plot.references if reference.label],
    }
    return {"data": data, "layout": layout}


# ---------------------------------------------------------------- text, numbers, axes and reference lines


def _text(text: str, limit: int = 200) -> str:
    """Return text that plotly shows unchanged."""
    return html.escape(display_name(text, limit), quote=False)


def _numbers(values: Iterable[float | None]) -> list[float | None]:
    """Return values with six digits: no screen shows more."""
    return [None if value is None else float(f"{value:.6g}") for value in values]


def _axis(axis: model.Axis, most: int) -> Json:
    title = {"text": _text(axis.label), "standoff": 10}
    drawn: Json = {"title": title, "automargin": True, "zeroline": False}
    if axis.categories:
        number = len(axis.categories)
        every = -(-number // most)
        short = fit_names([display_name(name) for name in axis.categories], LABEL)
        names = [_text(name, 2 * LABEL) for name in short]  # some stay long, to stay distinct
        places = list(range(0, number, every))
        return drawn | {"tickvals": places, "ticktext": names[::every], "showgrid": False}
    if axis.scale == "log":
        drawn |= {"type": "log", "exponentformat": "power", "dtick": 1}
    if axis.form == "share":
        drawn |= {"tickformat": ".0%", "hoverformat": ".1%"}
    else:
        drawn |= {"hoverformat": ".4~g"}
    low, high = (None if end is None else axis.place(end) for end in (axis.low, axis.high))
    if low is not None and high is not None:
        drawn["range"] = [low, high]
    elif low is not None or high is not None:
        # no range with one end: plotly 4.1 drops that end if a margin grows for a label
        ends = {"minallowed": low, "maxallowed": high}
        drawn["autorangeoptions"] = {end: value for end, value in ends.items() if value is not None}
    return drawn


def _line(reference: model.Reference) -> Json:
    across = {"xref": "paper", "x0": 0, "x1": 1, "y0": reference.at, "y1": reference.at}
    upright = {"yref": "paper", "y0": 0, "y1": 1, "x0": reference.at, "x1": reference.at}
    line = {"color": model.series_color(reference.tone), "width": 1.5, "dash": "dash"}
    return {"type": "line", "line": line, **(across if reference.on == "y" else upright)}


def _label(reference: model.Reference, plot: model.Plot) -> Json:
    at = (plot.x if reference.on == "x" else plot.y).place(reference.at)
    place: Json = {"xref": "paper", "x": 1, "xanchor": "right", "y": at, "yanchor": "bottom"}
    if reference.on == "x":
        place = {"yref": "paper", "y": 1, "x": at}
        if plot.y.categories:  # an upright label would cover the first row
            place |= {"yanchor": "bottom"}
        else:
            place |= {"yanchor": "top", "xanchor": "right", "textangle": -90}
    return {"text": _text(reference.label, LABEL), "showarrow": False, "font": {"size": 11}, **place}


# ---------------------------------------------------------------- series


def _named(name: str, **rest: Any) -> Json:
    """Return a trace with its name."""
    return {"name": _text(name, SERIES_NAME), "showlegend": bool(name), **rest}


def _lines(series: model.Lines, place: int) -> Json:
    line = {"color": model.series_color("", place), "width": 2}
    x, y = _numbers(series.x), _numbers(series.y)
    marked = series.marked or len(x) == 1
    if not marked:
        line["dash"] = DASHES[(place + place // len(model.SERIES)) % len(DASHES)]
    mode = "lines+markers" if marked else "lines"
    drawn = _named(series.name, type="scatter", mode=mode, x=x, y=y, line=line)
    if marked:
        drawn["marker"] = {"symbol": MARKS[place % len(MARKS)], "size": 7}
    return drawn


def _points(series: model.Points, place: int, sides: Iterator[model.Side | None]) -> Json:
    """sides: of the labels; without room, a label is shown only when its mark is pointed at."""
    color = model.series_color(series.tone, place)
    marker = {"color": color, "size": 9, "symbol": SYMBOLS.get(series.tone, "circle")}
    drawn: Json = {"mode": "markers", "x": _numbers(series.x), "y": _numbers(series.y), "cliponaxis": False}
    labels = [_text(label, model.LABEL) for label in series.labels]
    if labels:
        beside = [next(sides) for _ in labels]
        drawn |= {
            "mode": "markers+text",
            "hovertext": labels,
            "text": [label if side else "" for label, side in zip(labels, beside, strict=True)],
            "textposition": [_position(*(side or (1, 0))) for side in beside],
        }
    return _named(series.name, type="scatter", marker=marker, **drawn)


def _position(right: int, up: int) -> str:
    return f"{('middle', 'top', 'bottom')[up]} {('center', 'right', 'left')[right]}"


def _intervals(series: model.Intervals) -> list[Json]:
    """Return two traces per tone: its intervals as one line with gaps, and its values as markers."""
    traces: list[Json] = []
    for tone, name in series.legend.items():
        rows = [(place, row) for place, row in enumerate(series.rows) if row.tone == tone]
        if not rows:
            continue
        x: list[float | None] = []
        y: list[float | None] = []
        for place, row in rows:
            x += [row.low, row.high, None]
            y += [place, place, None]
        line = {"color": model.series_color(tone), "width": 3}
        traces.append({**QUIET, "x": _numbers(x), "y": y, "line": line})
        marker = {"color": model.series_color(tone), "symbol": SYMBOLS.get(tone, "circle"), "size": 10}
        values: Json = {"x": _numbers(row.value for _, row in rows), "y": [place for place, _ in rows]}
        traces.append(_named(name, type="scatter", mode="markers", marker=marker, **values))
    return traces


def _image(plot: model.Plot, series: model.Image) -> Json:
    bar: Json = {"thickness": 12}  # no title: the plot's title names the quantity
    if series.color.form == "share":
        bar["tickformat"] = ".0%"
    return {
        "type": "heatmap",
        "z": [_numbers(row) for row in series.values],
        "colorscale": [[place / (len(model.SHADES) - 1), color] for place, color in enumerate(model.SHADES)],
        "xgap": 1 if len(plot.x.categories) <= GAPS else 0,
        "ygap": 1,
        "zmin": series.color.low,
        "zmax": series.color.high,
        "showlegend": False,
        "colorbar": bar,
    }
