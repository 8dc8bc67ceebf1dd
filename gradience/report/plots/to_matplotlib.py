"""A plot drawn by matplotlib, for a paper.

Text stays text in an SVG. Series differ in their mark, dash or hatching as well as in colour, so that a plot printed in
black says the same.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from textwrap import fill
from typing import TYPE_CHECKING, Any

from gradience.errors import require
from gradience.report.plots.labels import LABEL, PAPER, Place, label_places
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
    Tone,
)
from gradience.reports.base.names import display_name
from gradience.reports.base.numbers import count, sig, size

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLE: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "font.size": 9.0,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.5,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "pdf.fonttype": 42,  # text that can be searched and copied
    "svg.fonttype": "none",
    "svg.hashsalt": "gradience",
    "text.parse_math": False,  # a `$` in a stranger's name is a `$`
}
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
MARK_OF_TONE: dict[Tone, str] = {"good": "o", "warn": "D", "bad": "X", "dim": "s"}
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
TICKS = 48
"""Names on an upright axis of categories, or their letters on a lying one, at most."""
FEW = 12
WIDE_TICKS = 5
"""Of an axis across whose figures have a unit."""
LEGEND, LEGEND_LINE = 10, 12.5
"""Series in a legend, at most; of more the first and the last are named. Points of one of its lines."""
ABSENT = "#f2f2f2"
"""Of a cell without a value."""
TITLE, NAME, NARROW, NARROW_NAME = 48, 60, 56, 42
"""Characters of a line of a title, of a name in a plot; and along the lower side and of a name of one that is made
narrower."""


@contextmanager
def style() -> Iterator[None]:
    """While the block lasts, matplotlib draws and writes as the plots are meant. Raises MissingExtra."""
    with require("matplotlib", extra="plots").rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        yield


def part(name: str) -> Any:
    """Return a module of matplotlib. Raises MissingExtra."""
    return require(f"matplotlib.{name}", extra="plots")


# ---------------------------------------------------------------- one plot


def draw(plot: Plot, axes: Axes, *, share: float = 1.0, title: bool = True) -> int:
    """Draw a plot, and return the lines of a legend that has no room in it, and stands above it.

    share: of the usual width of a plot. title: whether it stands above the plot.
    """
    named = plot.y.scale == "categories" or any(isinstance(one, Intervals) for one in plot.series)
    room = NAME if share == 1 else max(12, round(NARROW_NAME * share))
    across = share / 2 if named and share < 1 else share  # beside names there is half of it
    for side, axis in (("x", plot.x), ("y", plot.y)):
        if axis.scale == "log":
            getattr(axes, f"set_{side}scale")("log")
    bars = [one for one in plot.series if isinstance(one, BarsOf)]
    names = label_places(plot, PAPER.narrowed(share))
    for place, series in enumerate(plot.series):
        _draw_series(axes, series, place, bars, room)
        if isinstance(series, Points) and place in names:
            _draw_labels(axes, series, names[place])
    _draw_axis(axes, "x", plot.x, round(NARROW * across) if share < 1 else NAME)
    _draw_axis(axes, "y", plot.y, NAME, names=room)
    if named and share < 1:
        axes.tick_params(axis="y", labelsize="small")
    if any(bar.lying for bar in bars):
        axes.invert_yaxis()
    if any(isinstance(one, Intervals) for one in plot.series):
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
    for reference in plot.references:
        _draw_reference(axes, reference)
    lines = _draw_legend(axes, plot, outside=share < 1)
    if title:
        title_room = max(16, round(TITLE * across))
        axes.set_title(fill(_text(plot.title, 120), title_room), pad=6 + LEGEND_LINE * lines)
    return lines


def _draw_series(axes: Axes, series: Series, place: int, bars: Sequence[BarsOf], room: int) -> None:
    match series:
        case Lines():
            _draw_lines(axes, series, place)
        case Points():
            _draw_points(axes, series, place)
        case BarsOf():
            _draw_bars(axes, series, place, bars)
        case Histogram():
            color = series_color(series.tone, None, place)
            axes.stairs(
                series.counts,
                series.edges,
                fill=True,
                color=color,
                edgecolor="white",
                label=_text(series.name),
            )
        case Intervals():
            _draw_intervals(axes, series, place, room)
        case Image():
            _draw_image(axes, series)


def _draw_lines(axes: Axes, series: Lines, place: int) -> None:
    color = series_color(series.tone, series.shade, place)
    plain_line = series.shade is not None or series.marked or not series.name or bool(series.tone)
    axes.plot(
        series.x,
        _gaps(series.y),
        color=color,
        label=_text(series.name),
        drawstyle="steps-post" if series.step else "default",
        marker=MARKS[place % len(MARKS)] if series.marked else "",
        linestyle=DASHES[1] if series.dashed else DASHES[0 if plain_line else place % len(DASHES)],
    )
    if series.low and series.high:
        axes.fill_between(
            series.x, _gaps(series.low), _gaps(series.high), color=color, alpha=0.18, linewidth=0
        )


def _draw_points(axes: Axes, series: Points, place: int) -> None:
    color = series_color(series.tone, series.shade, place)
    axes.plot(
        series.x,
        _gaps(series.y),
        color=color,
        linestyle="",
        marker=MARKS[place % len(MARKS)],
        markeredgecolor="white",
        markeredgewidth=0.5,
        label=_text(series.name),
    )


def _draw_labels(axes: Axes, series: Points, places: Sequence[Place | None]) -> None:
    for x, y, label, place in zip(series.x, series.y, series.labels, places, strict=True):
        if y is None or place is None:
            continue
        high, beside = place.split(" ")
        right = {"left": -1, "center": 0, "right": 1}[beside]
        up = {"bottom": -1, "middle": 0, "top": 1}[high]
        axes.annotate(
            _text(label, LABEL),
            (x, y),
            xytext=(5 * right, 5 * up),
            textcoords="offset points",
            fontsize=7,
            ha={-1: "right", 0: "center", 1: "left"}[right],
            va={-1: "top", 0: "center", 1: "bottom"}[up],
        )


def _draw_bars(axes: Axes, series: BarsOf, place: int, bars: Sequence[BarsOf]) -> None:
    values = _gaps(series.values)
    look: dict[str, Any] = {
        "color": series_color(series.tone, None, place),
        "edgecolor": "white",
        "hatch": HATCHES[place % len(HATCHES)] if len(bars) > 1 else "",
        "label": _text(series.name),
    }
    beside = [one for one in bars if not one.stacked]
    thick = 0.8 / max(1, len(beside))
    start: Any = 0
    at: list[float] = list(series.at)
    if series.stacked:
        thick, start = 0.8, _beneath(series, bars)
    elif len(beside) > 1:
        shift = (beside.index(series) - (len(beside) - 1) / 2) * thick
        at = [value + shift for value in at]
    if series.lying:
        axes.barh(at, values, height=thick, left=start, **look)
        axes.set_ylim(-0.6, max(series.at, default=0) + 0.6)
    else:
        axes.bar(at, values, width=thick, bottom=start, **look)


def _beneath(series: BarsOf, bars: Sequence[BarsOf]) -> list[float]:
    """What the stacked series before this one add up to, at each of its places."""
    total: dict[float, float] = {}
    for one in bars:
        if one is series:
            break
        for at, value in zip(one.at, one.values, strict=True):
            total[at] = total.get(at, 0.0) + (value or 0.0)
    return [total.get(at, 0.0) for at in series.at]


def _draw_intervals(axes: Axes, series: Intervals, place: int, room: int) -> None:
    """A mark with a line for each row; an arrow where an end is open. room: characters of a name."""
    known = [value for row in series.rows for value in (row.value, row.low, row.high) if value is not None]
    span = max(known, default=1.0) - min(known, default=0.0)
    left, right = min(known, default=0.0) - 0.05 * span, max(known, default=1.0) + 0.05 * span
    for at, row in enumerate(series.rows):
        if row.value is None:
            continue
        color = series_color(row.tone, None, place)
        ends = (left if row.low is None else row.low, right if row.high is None else row.high)
        axes.plot(ends, (at, at), color=color, linewidth=1.6, solid_capstyle="butt")
        if row.inner is not None:
            axes.plot(row.inner, (at, at), color=color, linewidth=4.5, solid_capstyle="butt")
        for end, value, arrow in ((ends[0], row.low, "<"), (ends[1], row.high, ">")):
            axes.plot(
                end, at, marker=arrow if value is None else "|", color=color, markersize=6, linestyle=""
            )
        mark = MARK_OF_TONE.get(row.tone, MARKS[place % len(MARKS)])
        axes.plot(row.value, at, marker=mark, color=color, linestyle="")
    axes.set_yticks(range(len(series.rows)), [_text(row.label, room) for row in series.rows])
    axes.set_ylim(-0.7, len(series.rows) - 0.3)


def _draw_image(axes: Axes, image: Image) -> None:
    scale = part("colors").LinearSegmentedColormap.from_list("shades", SHADES)
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
    bar.ax.yaxis.set_major_formatter(_formatter(image.color))


def _draw_reference(axes: Axes, reference: Reference) -> None:
    color = TONES.get(reference.tone, TONES["dim"])
    look: dict[str, Any] = {"color": color, "linewidth": 1.0, "linestyle": DASHES[1], "zorder": 1}
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
    text: dict[str, Any] = {
        "color": color,
        "fontsize": 7,
        "zorder": 3,
        "bbox": behind if reference.label else None,
    }
    label = _text(reference.label)
    if reference.on == "x":
        axes.axvline(reference.at, **look)
        across = axes.get_xaxis_transform()
        axes.text(reference.at, 1.0, label, transform=across, rotation=90, ha="right", va="top", **text)
    else:
        axes.axhline(reference.at, **look)
        axes.text(
            1.0, reference.at, label, transform=axes.get_yaxis_transform(), ha="right", va="bottom", **text
        )


def _draw_legend(axes: Axes, plot: Plot, *, outside: bool) -> int:
    """outside: above the plot, since there is no room in it. Returns its lines there."""
    handles, labels = axes.get_legend_handles_labels()
    named = [(handle, label) for handle, label in zip(handles, labels, strict=True) if label]
    if len(named) > LEGEND and any(isinstance(one, Lines) and one.shade is not None for one in plot.series):
        named = [named[0], named[-1]]
    if len(named) > 1 or (named and plot.series[0].name not in ("", plot.title) and len(plot.series) > 1):
        where: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0)} if outside else {}
        axes.legend([handle for handle, _ in named], [label for _, label in named], **where)
        return len(named) if outside else 0
    return 0


# ---------------------------------------------------------------- axes


def _draw_axis(axes: Axes, side: str, axis: Axis, room: int, names: int = NAME) -> None:
    """room: characters of a line of its label. names: of a category."""
    getattr(axes, f"set_{side}label")(fill(_text(axis.label, 120), room))
    shown = getattr(axes, f"{side}axis")
    if axis.scale == "categories":
        if axis.categories:
            _draw_categories(shown, axis.categories, side, names)
        return
    if axis.low is not None or axis.high is not None:
        low, high = ("left", "right") if side == "x" else ("bottom", "top")
        getattr(axes, f"set_{side}lim")(**{low: axis.low, high: axis.high})
    if axis.scale == "log":
        ticker = part("ticker")
        low, high = getattr(axes, f"get_{side}lim")()
        narrow = high / low < 200
        shown.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
        shown.set_minor_formatter(ticker.NullFormatter())
    elif axis.form == "count":
        shown.set_major_locator(part("ticker").MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    elif axis.form == "bytes" and side == "x":
        shown.set_major_locator(part("ticker").MaxNLocator(WIDE_TICKS))
    shown.set_major_formatter(_formatter(axis))


def _draw_categories(shown: Any, names: Sequence[str], side: str, most: int) -> None:
    """Names at their places: all, or as many as can be read."""
    room = TICKS if side == "y" else max(TICKS // max(2, max(map(len, names))), min(len(names), FEW))
    every = math.ceil(len(names) / room)
    at = range(0, len(names), every)
    texts = [_text(names[place], most) for place in at]
    shown.set_ticks(at, texts)
    if side == "x" and sum(map(len, texts)) > TICKS:
        shown.set_tick_params(labelrotation=90, labelsize=7)


def _formatter(axis: Axis) -> Any:
    forms: dict[str, Callable[[float], str]] = {
        "share": lambda value: f"{100 * value:.4g} %",
        "bytes": lambda value: size(round(value)),
        "number": _number,
        "count": _number,
    }
    form = forms[axis.form]
    return part("ticker").FuncFormatter(lambda value, _: form(float(value)))


def _number(value: float) -> str:
    """A tick: 0.001, 2.5, 20,000, 1e-5."""
    value = float(f"{value:.6g}")
    if value.is_integer() and abs(value) < 1e15:
        return count(int(value)).replace("-", "−")
    text = f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 else sig(value, 1)
    return text.replace("-", "−") if value < 0 else text


def _text(text: str, most: int = NAME) -> str:
    """A name or a title: visible characters only, and not too many."""
    return display_name(text, most)


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]
