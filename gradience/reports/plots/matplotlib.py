"""Plots drawn by matplotlib for a paper, as SVG, PDF or PNG.

Text stays text in an SVG. Series differ in their mark, dash or hatching as well as in color, so that a plot is
readable in black and white. The output is reproducible byte for byte with one version of matplotlib: no date, no
random identifiers.
"""

from __future__ import annotations

import math
import warnings
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

from gradience.errors import MissingExtra, require
from gradience.reports.base.names import display_name, html_text
from gradience.reports.base.numbers import count, sig
from gradience.reports.plots.plot import (
    SHADES,
    Axis,
    Image,
    Intervals,
    Lines,
    Plot,
    Points,
    Reference,
    Tone,
    series_color,
    sides_of_labels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 9.0,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "pdf.fonttype": 42,  # searchable text
    "svg.fonttype": "none",
    "svg.hashsalt": "gradience",
    "text.parse_math": False,  # a `$` in a name is a `$`
}
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARK_OF_TONE: dict[Tone, str] = {"good": "o", "warn": "D", "bad": "X", "dim": "s"}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
TICKS = 48
"""Maximum number of category names on an upright axis, or of their letters on a horizontal one."""
FEW = 12
ABSENT = "#f2f2f2"
"""Color of a cell without a value."""
TITLE, NAME, LABEL = 48, 60, 28
"""Characters per line of a title, of a name in a plot, and of a label beside a point."""
GAP = 5
"""Distance of a label from the center of its point, in points of type."""
SIZE = (5.2, 3.6)
"""Width and minimum height of a plot, in inches."""
ROW = 0.28
"""Height of one row of a forest plot or a heat map, in inches."""
IN_A_CELL = 760
"""Maximum width of a picture in a notebook, in pixels."""


def figure_of(plot: Plot) -> Figure:
    """Return a matplotlib figure of the plot, 5.2 inches wide. Raises MissingExtra without matplotlib."""
    with _style():
        height = max(SIZE[1], 1.4 + ROW * len(plot.y.categories))
        figure: Figure = _part("figure").Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.subplots()
        _draw(plot, axes)
        figure.draw_without_rendering()  # labels are placed in the final layout
        _draw_labels(axes, [series for series in plot.series if isinstance(series, Points)])
    return figure


def image_of(plot: Plot, kind: str) -> bytes:
    """Return the plot as the bytes of a file: kind is `svg`, `pdf` or `png`. Raises MissingExtra."""
    figure = figure_of(plot)
    said = {"Title": plot.title, "Description": plot.sentence}
    metadata: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None, **said},
        "pdf": {
            "CreationDate": None,
            "Creator": None,
            "Producer": None,
            "Title": plot.title,
            "Subject": plot.sentence,
        },
        "png": {"Software": None, **said},
    }
    file = BytesIO()
    with _style():
        figure.savefig(file, format=kind, metadata=metadata[kind], dpi=200)
    return file.getvalue()


def html_image(plot: Plot) -> str:
    """Return the plot as a self-contained image for HTML, without a script; without matplotlib, how to install it."""
    try:
        image = b64encode(image_of(plot, "svg")).decode()
    except MissingExtra as missing:
        return f"<p>{html_text(f'To see the plot, install matplotlib: {missing.hint}')}</p>"
    label = html_text(f"{plot.title}. {plot.sentence}")
    return f'<img alt="{label}" style="max-width:min(100%, {IN_A_CELL}px)" src="data:image/svg+xml;base64,{image}">'


@contextmanager
def _style() -> Iterator[None]:
    """Apply the style of our plots to matplotlib within the block. Raises MissingExtra."""
    with require("matplotlib", extra="plots").rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def _part(name: str) -> Any:
    return require(f"matplotlib.{name}", extra="plots")


def _text(text: str, most: int = NAME) -> str:
    """Return a name or a title: visible characters only, up to a maximum length."""
    return display_name(text, most)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


# ---------------------------------------------------------------- one plot


def _draw(plot: Plot, axes: Axes) -> None:
    for side, axis in (("x", plot.x), ("y", plot.y)):
        if axis.scale == "log":
            getattr(axes, f"set_{side}scale")("log")
    for place, series in enumerate(plot.series):
        match series:
            case Lines():
                _draw_lines(axes, series, place)
            case Points():
                _draw_points(axes, series, place)
            case Intervals():
                _draw_intervals(axes, series)
            case Image():
                _draw_image(axes, series)
    _draw_axis(axes, "x", plot.x)
    _draw_axis(axes, "y", plot.y)
    if isinstance(plot.series[0], Intervals):
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    for reference in plot.references:
        _draw_reference(axes, reference)
    _draw_legend(axes, plot)
    if plot.note:
        axes.set_xlabel(f"{axes.get_xlabel()}\n{fill(_text(plot.note, 200), TITLE)}")
    axes.set_title(fill(_text(plot.title, 120), TITLE), pad=12 if axes.yaxis_inverted() else None)


def _draw_lines(axes: Axes, series: Lines, place: int) -> None:
    axes.plot(
        series.x,
        _gaps(series.y),
        color=series_color("", place),
        label=_text(series.name),
        marker=MARKS[place % len(MARKS)] if series.marked else "",
        linestyle=DASHES[0 if series.marked else place % len(DASHES)],
    )


def _draw_points(axes: Axes, series: Points, place: int) -> None:
    axes.plot(
        series.x,
        series.y,
        color=series_color(series.tone, place),
        linestyle="",
        label=_text(series.name),
        marker=MARK_OF_TONE.get(series.tone, MARKS[place % len(MARKS)]),
        markeredgecolor="white",
        markeredgewidth=0.5,
    )


def _draw_labels(axes: Axes, points: Sequence[Points]) -> None:
    """Label each point if there is room inside the plot without overlapping other labels and markers."""
    named = [point for series in points for point in zip(series.x, series.y, series.labels, strict=False)]
    if not named:
        return
    taken = [text.get_window_extent() for text in (*axes.texts, *filter(None, [axes.get_legend()]))]
    texts = [
        axes.annotate(
            _text(label, LABEL), (x, y), (0, 0), textcoords="offset points", fontsize=7, in_layout=False
        )
        for x, y, label in named
    ]
    boxes = [text.get_window_extent() for text in texts]
    sides = sides_of_labels(
        axes.transData.transform([(x, y) for x, y, _ in named]).tolist(),
        [(box.width, box.height) for box in boxes],
        axes.get_window_extent().extents,
        [box.extents for box in taken],
        GAP * axes.figure.dpi / 72,
    )
    for text, side in zip(texts, sides, strict=True):
        if side is None:
            text.remove()
            continue
        right, up = side
        text.xyann = (GAP * right, GAP * up)
        text.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])


def _draw_intervals(axes: Axes, series: Intervals) -> None:
    """Draw a mark with a line for each row."""
    named = dict(series.legend)
    for at, row in enumerate(series.rows):
        color = series_color(row.tone)
        if row.low is not None and row.high is not None:
            axes.plot((row.low, row.high), (at, at), color=color, linewidth=1.6, marker="|", markersize=6)
        edge: dict[str, Any] = {
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
            "markersize": 7,
            "linestyle": "",
        }
        name = named.pop(row.tone, "")
        axes.plot(row.value, at, marker=MARK_OF_TONE[row.tone], color=color, label=name, **edge)
    axes.set_ylim(-0.7, len(series.rows) - 0.3)


def _draw_image(axes: Axes, image: Image) -> None:
    scale = _part("colors").LinearSegmentedColormap.from_list("shades", SHADES)
    shown = axes.imshow(
        [_gaps(row) for row in image.values],
        cmap=scale.with_extremes(bad=ABSENT),
        aspect="auto",
        interpolation="nearest",
        vmin=image.color.low,
        vmax=image.color.high,
    )
    axes.grid(visible=False)
    figure = axes.get_figure()
    assert figure is not None
    bar = figure.colorbar(shown, ax=axes, label=_text(image.color.label), pad=0.02)
    bar.ax.yaxis.set_major_formatter(_formatter(image.color, bar.ax.yaxis))


def _draw_reference(axes: Axes, reference: Reference) -> None:
    color = series_color(reference.tone)
    line: dict[str, Any] = {"color": color, "linewidth": 1.0, "linestyle": DASHES[1], "zorder": 1}
    text: dict[str, Any] = {"color": color, "fontsize": 7, "zorder": 3, "ha": "right"}
    if reference.label:
        text["bbox"] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    label = _text(reference.label)
    if reference.on == "x":
        axes.axvline(reference.at, **line)
        across = axes.get_xaxis_transform()
        rows = axes.yaxis_inverted()  # an upright label would cover the first row
        place = {"ha": "center", "va": "bottom"} if rows else {"rotation": 90, "va": "top"}
        axes.text(reference.at, 1.0, label, transform=across, **{**text, **place})
    else:
        axes.axhline(reference.at, **line)
        axes.text(1.0, reference.at, label, transform=axes.get_yaxis_transform(), va="bottom", **text)


def _draw_legend(axes: Axes, plot: Plot) -> None:
    handles, labels = axes.get_legend_handles_labels()
    named = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
    handles, labels = [handle for handle, _ in named], [label for _, label in named]
    if len(named) >= plot.least_named and isinstance(plot.series[0], Intervals):  # the rows fill the axes
        of_label = dict(zip(labels, handles, strict=True))
        ordered = [label for label in plot.series[0].legend.values() if label in of_label]
        handles = [of_label[label] for label in ordered]
        axes.figure.legend(handles, ordered, loc="outside lower center", ncols=len(named))
    elif len(named) >= plot.least_named:
        axes.legend(handles, labels)


# ---------------------------------------------------------------- axes


def _draw_axis(axes: Axes, side: str, axis: Axis) -> None:
    getattr(axes, f"set_{side}label")(fill(_text(axis.label, 120), NAME))
    shown = getattr(axes, f"{side}axis")
    if axis.categories:
        longest = max(map(len, axis.categories))
        few = max(TICKS // max(2, longest), min(len(axis.categories), FEW))
        every = math.ceil(len(axis.categories) / (TICKS if side == "y" else few))
        texts = [_text(name) for name in axis.categories[::every]]
        shown.set_ticks(range(0, len(axis.categories), every), texts)
        if side == "x" and sum(map(len, texts)) > TICKS:
            shown.set_tick_params(labelrotation=90, labelsize=7)
        return
    if axis.low is not None or axis.high is not None:
        low, high = ("left", "right") if side == "x" else ("bottom", "top")
        getattr(axes, f"set_{side}lim")(**{low: axis.low, high: axis.high})
    ticker = _part("ticker")
    if axis.scale == "log":
        low_end, high_end = getattr(axes, f"get_{side}lim")()
        narrow = high_end / low_end < 200
        shown.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
        shown.set_minor_formatter(ticker.NullFormatter())
    elif axis.form == "count":
        shown.set_major_locator(ticker.MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    shown.set_major_formatter(_formatter(axis, shown))


def _formatter(axis: Axis, shown: Any) -> Any:
    def text(value: float, _: int) -> str:
        if axis.form == "share":
            return f"{100 * value:.4g} %"
        tick = _number(float(value))
        ticks = [] if axis.scale == "log" else map(_number, map(float, shown.get_majorticklocs()))
        places = max((len(other.partition(".")[2]) for other in ticks if "e" not in other), default=0)
        whole, _dot, rest = tick.partition(".")
        padded = "e" not in tick and value != 0 and places
        return f"{whole}.{rest.ljust(places, '0')}" if padded else tick

    return _part("ticker").FuncFormatter(text)


def _number(value: float) -> str:
    """Return a tick: 0.001, 2.5, 20,000, 1e-5."""
    value = float(f"{value:.6g}")
    if value.is_integer() and abs(value) < 1e15:
        return count(int(value)).replace("-", "−")
    text = f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else sig(value, 1)
    return text.replace("-", "−") if value < 0 else text
