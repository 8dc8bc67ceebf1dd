"""Plots drawn by matplotlib for a paper, as SVG, PDF or PNG.

Text stays text in an SVG. Series differ in their mark, dash or hatching as well as in color, so that a plot is
readable in black and white. The output is reproducible byte for byte with one version of matplotlib: no date, no
random identifiers.
"""

from __future__ import annotations

import math
import warnings
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from gradience.errors import MissingExtra, require
from gradience.reports.base.blocks import Tone
from gradience.reports.base.names import display_name, html_text
from gradience.reports.plots import plot as model

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
TITLE, NAME = 48, 60
"""Characters per line of a title, and of a name in a plot."""
GAP = 5
"""Distance of a label from the center of its point, in points of type."""
SIZE = (5.2, 3.6)
"""Width and minimum height of a plot, in inches."""
ROW = 0.28
"""Height of one row of a forest plot or a heat map, in inches."""
IN_A_CELL = 760
"""Maximum width of a picture in a notebook, in pixels."""


def figure_of(plot: model.Plot) -> Figure:
    """Return a matplotlib figure of the plot, 5.2 inches wide. Raises MissingExtra without matplotlib."""
    with _style():
        height = max(SIZE[1], 1.4 + ROW * len(plot.y.categories))
        figure: Figure = _part("figure").Figure(figsize=(SIZE[0], height), layout="constrained")
        _draw(plot, figure.subplots())
    return figure


def image_of(plot: model.Plot, kind: str) -> bytes:
    """Return the plot as the bytes of a file: kind is `svg`, `pdf` or `png`. Raises MissingExtra."""
    described = {"Title": plot.title, "Subject" if kind == "pdf" else "Description": plot.sentence}
    unset = {"svg": ("Date", "Creator"), "pdf": ("CreationDate", "Creator", "Producer"), "png": ("Software",)}
    figure, file = figure_of(plot), BytesIO()
    with _style():
        figure.savefig(file, format=kind, metadata=described | dict.fromkeys(unset[kind]), dpi=200)
    return file.getvalue()


def html_image(plot: model.Plot) -> str:
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


# ---------------------------------------------------------------- one plot


def _draw(plot: model.Plot, axes: Axes) -> None:
    for side, axis in (("x", plot.x), ("y", plot.y)):
        if axis.scale == "log":
            getattr(axes, f"set_{side}scale")("log")
    sides = model.sides_of_labels(plot)
    for place, series in enumerate(plot.series):
        match series:
            case model.Lines():
                _draw_lines(axes, series, place)
            case model.Points():
                _draw_points(axes, series, place, sides)
            case model.Intervals():
                _draw_intervals(axes, series)
            case model.Image():
                _draw_image(axes, series)
    _draw_axis(axes, "x", plot.x)
    _draw_axis(axes, "y", plot.y)
    for reference in plot.references:
        _draw_reference(axes, reference)
    _draw_legend(axes, plot)
    if plot.note:
        axes.set_xlabel(f"{axes.get_xlabel()}\n{fill(_text(plot.note, 200), TITLE)}")
    axes.set_title(fill(_text(plot.title, 120), TITLE), pad=12 if axes.yaxis_inverted() else None)


def _draw_lines(axes: Axes, series: model.Lines, place: int) -> None:
    axes.plot(
        series.x,
        np.array(series.y, dtype=float),
        color=model.series_color("", place),
        label=_text(series.name),
        marker=MARKS[place % len(MARKS)] if series.marked else "",
        linestyle=DASHES[0 if series.marked else place % len(DASHES)],
    )


def _draw_points(axes: Axes, series: model.Points, place: int, sides: Iterator[model.Side | None]) -> None:
    axes.plot(
        series.x,
        series.y,
        color=model.series_color(series.tone, place),
        linestyle="",
        label=_text(series.name),
        marker=MARK_OF_TONE.get(series.tone, MARKS[place % len(MARKS)]),
        markeredgecolor="white",
        markeredgewidth=0.5,
    )
    for x, y, label, side in zip(series.x, series.y, series.labels, sides, strict=False):
        if side is not None:
            right, up = side
            words, offset = _text(label, model.LABEL), (GAP * right, GAP * up)
            text = axes.annotate(words, (x, y), offset, textcoords="offset points", fontsize=7)
            text.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])


def _draw_intervals(axes: Axes, series: model.Intervals) -> None:
    """Draw a mark with a line for each row."""
    for tone, name in series.legend.items():
        rows = [(at, row) for at, row in enumerate(series.rows) if row.tone == tone]
        ends = np.array([(row.value, row.low, row.high) for _, row in rows], dtype=float).reshape(-1, 3)
        axes.errorbar(
            ends[:, 0],
            [at for at, _ in rows],
            xerr=np.abs(ends[:, 1:] - ends[:, :1]).T,
            fmt=MARK_OF_TONE[tone],
            color=model.series_color(tone),
            label=name if rows else "",
            capsize=3,
        )
    axes.set_ylim(len(series.rows) - 0.3, -0.7)
    axes.grid(visible=False, axis="y")


def _draw_image(axes: Axes, image: model.Image) -> None:
    scale = _part("colors").LinearSegmentedColormap.from_list("shades", model.SHADES)
    shown = axes.imshow(
        np.array(image.values, dtype=float),
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
    bar.ax.yaxis.set_major_formatter(_formatter(image.color))


def _draw_reference(axes: Axes, reference: model.Reference) -> None:
    color = model.series_color(reference.tone)
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


def _draw_legend(axes: Axes, plot: model.Plot) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) < plot.least_named:
        return
    if isinstance(plot.series[0], model.Intervals):  # the rows fill the axes
        axes.figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    else:
        axes.legend()


# ---------------------------------------------------------------- axes


def _draw_axis(axes: Axes, side: str, axis: model.Axis) -> None:
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
    shown.set_major_formatter(_formatter(axis))


def _formatter(axis: model.Axis) -> Any:
    """Return the format of ticks: 25 %, or 0.001, 2.5, 20,000, 1e-05."""
    ticker = _part("ticker")
    if axis.form == "share":
        return ticker.PercentFormatter(1, symbol=" %")
    return ticker.StrMethodFormatter("{x:,g}")
