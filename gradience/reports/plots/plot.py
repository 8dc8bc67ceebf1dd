"""The model of a plot: axes, series of a few kinds, reference lines, a descriptive sentence, and colors; the plots of
a report, each made by a function that the report's class names.

A plot is pure data of plain text and plain numbers: one description for browsers, papers and readers who cannot see
it. Text may contain untrusted names: each renderer escapes all text in one place. A missing value is None, drawn as a
gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Literal

from gradience.errors import UsageError, did_you_mean
from gradience.reports.base.blocks import Tone

if TYPE_CHECKING:
    from gradience.reports.base.report import Report

Form = Literal["number", "count", "share"]
"""Format of values: 1.87; 20; 0.9 as 90 %."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a plot."""

    title: str
    unit: str = ""
    """Unit after the title, such as `points`; a share needs none."""
    scale: Literal["linear", "log"] = "linear"
    low: float | None = None
    high: float | None = None
    """The ends of the axis; None derives them from the values. On a logarithmic axis both are above 0."""
    categories: Sequence[str] = ()
    """The names of positions 0, 1, 2, …; on an upright axis the first is at the top."""
    form: Form = "number"

    @property
    def label(self) -> str:
        """Return the title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def place(self, value: float) -> float:
        """Return the place of a value on the axis: on a logarithmic one, its power of ten."""
        return math.log10(value) if self.scale == "log" else value


@dataclass(frozen=True, slots=True)
class Lines:
    """Points joined in their order."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    marked: bool = False
    """True if each point has a mark."""


@dataclass(frozen=True, slots=True)
class Points:
    """Marks that are not joined."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    labels: Sequence[str] = ()
    """Labels of the points, shown if there is room; empty: no label."""
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One adapter against the reference: a row of a forest plot."""

    name: str
    value: float
    low: float | None
    high: float | None
    """Upper end of the interval that is compared with the margin; both ends are None if it is unknown."""
    tone: Tone
    saved: float | None = None
    """Share of the reference's LoRA parameters that is saved."""
    aside: str = ""
    """Suffix of the name if its interval is of a different kind."""

    @property
    def kept(self) -> float:
        """Return the share of the reference's LoRA parameters that is kept."""
        return 1 - (self.saved or 0.0)

    @property
    def drawn(self) -> list[float]:
        """Return the value and the known ends."""
        return [end for end in (self.value, self.low, self.high) if end is not None]


@dataclass(frozen=True, slots=True)
class Intervals:
    """A forest plot: a value and its interval on x for each category of y."""

    rows: Sequence[ForestRow]
    legend: Mapping[Tone, str]
    """Meaning of each tone."""


@dataclass(frozen=True, slots=True)
class Image:
    """A heat map: a color for each cell of two axes of categories."""

    values: Sequence[Sequence[float | None]]
    """One row for each category of y, with one value for each category of x; None for a cell without a value."""
    color: Axis
    """The quantity shown by the color, and its range."""


Series = Lines | Points | Intervals | Image


@dataclass(frozen=True, slots=True)
class Reference:
    """A line across the plot: a margin, a target."""

    at: float
    label: str
    on: Literal["x", "y"] = "y"
    """The axis of the value `at`: `x` gives an upright line."""
    tone: Tone = "dim"


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot. Plots shown side by side are separate objects."""

    name: str
    """Its anchor and file name: lowercase letters, digits and hyphens, unique in a document."""
    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    sentence: str
    """Text alternative of the plot: a full sentence with figures, for readers who cannot see it."""
    references: Sequence[Reference] = ()
    note: str = ""
    """Sentence below the plot on paper, such as the rows that are not drawn; a page has it in `sentence`."""

    @property
    def least_named(self) -> int:
        """Smallest number of named series that need a legend: one if colors are verdicts."""
        return 1 if any(isinstance(series, Points | Intervals) for series in self.series) else 2


# ---------------------------------------------------------------- labels beside points

Side = tuple[int, int]
BESIDE: Sequence[Side] = ((1, 0), (1, 1), (1, -1), (-1, 0), (-1, 1), (-1, -1), (0, 1), (0, -1))
"""Sides of a point on which a label may stand (right, up), in the order in which they are tried."""
AREA = (440, 260)
"""Width and height of the axes in which labels must fit, in units of a small font: less than paper and pages have."""
LABEL, LETTER, LINE, GAP = 28, 6, 12, 7
"""Letters of a label, the size of a letter, and the distance from the center of a point to its label."""
Box = tuple[float, float, float, float]
"""Left, lower, right and upper end."""


def sides_of_labels(plot: Plot) -> Iterator[Side | None]:
    """Yield the side on which the label of each point covers no mark and no other label; None if all sides do."""
    drawn = [series for series in plot.series if isinstance(series, Lines | Points)]
    across = _scale(plot.x, [x for series in drawn for x in series.x], AREA[0])
    upward = _scale(plot.y, [y for series in drawn for y in series.y], AREA[1])
    named = [
        (across(x), upward(y), LETTER * min(len(label), LABEL))
        for series in drawn
        if isinstance(series, Points)
        for x, y, label in zip(series.x, series.y, series.labels, strict=False)
    ]
    mark = GAP - 1
    boxes = [(x - mark, y - mark, x + mark, y + mark) for x, y, _ in named]
    for line in plot.references:
        if line.on == "y":  # its label stands above its right end
            at = upward(line.at)
            boxes.append((AREA[0] - LETTER * len(line.label), at, AREA[0], at + LINE))
    for x, y, width in named:
        for right, up in BESIDE:
            left, low = x + right * GAP + (right - 1) * width / 2, y + up * GAP + (up - 1) * LINE / 2
            box = (left, low, left + width, low + LINE)
            if _inside(box) and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                yield right, up
                break
        else:
            yield None


def _scale(axis: Axis, values: Iterable[float | None], size: int) -> Callable[[float], float]:
    """Return a function from a value on an axis to its place. values: all that are drawn."""
    ends = [axis.place(value) for value in (*values, axis.low, axis.high) if value is not None] or [0.0]
    room = 0.05 * (max(ends) - min(ends)) or 1.0
    low = min(ends) if axis.low is not None else min(ends) - room
    span = (max(ends) if axis.high is not None else max(ends) + room) - low
    return lambda value: size * (axis.place(value) - low) / span


def _inside(box: Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= AREA[0] and box[3] <= AREA[1]


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ---------------------------------------------------------------- colors

SERIES = ("#3b78c4", "#d9822b", "#2f9e77", "#b3589a", "#7352d1", "#8f5f33", "#45a2cc", "#ae9258")
"""Colors of series without a tone, by their position in the plot; the ninth starts again. Any two are at
least 14 apart in CIELAB, also for readers without red or green receptors (Machado, Oliveira and Fernandes,
2009)."""

TONES: dict[Tone, str] = {"good": "#2f9e77", "warn": "#c98a1b", "bad": "#cf4b4b", "dim": "#8c8c8c"}

SHADES = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""Colors of heat maps, from low to high in even steps (viridis, Smith and van der Walt, 2015; CC0)."""


def series_color(tone: Tone, place: int = 0) -> str:
    """Return the color of a series: by its tone, or its position in the plot."""
    return TONES[tone] if tone else SERIES[place % len(SERIES)]


# ---------------------------------------------------------------- the plots of a report


def plots_of(report: Report) -> dict[str, Plot]:
    """Return every plot of a report, the most informative first; empty for a report that has only text."""
    plots = {kind: resolve_name(f"gradience.reports.{maker}")(report) for kind, maker in report.plots.items()}
    return {kind: plot for kind, plot in plots.items() if plot is not None}


def plot_of(report: Report, kind: str | None = None) -> Plot:
    """Return one plot of a report: of the given kind, or the most informative one.

    Raises UsageError (`no-plot`) if the report does not have this plot.
    """
    plots = plots_of(report)
    plot = next(iter(plots.values()), None) if kind is None else plots.get(kind)
    if plot is None:
        name = report.schema_id.partition("/")[0].removeprefix("gradience.").replace("_", " ")
        there = f"available: {', '.join(plots) or 'none'}"
        raise UsageError(
            f"this {name} has no plot {kind!r}" if kind else f"this {name} has no plot",
            code="no-plot",
            hint=did_you_mean(kind or "", plots)
            or (there if report.plots else "this report has only text: print(report)"),
        )
    return plot
