"""The model of a plot: axes, series of a few kinds, reference lines, a descriptive sentence, and colors.

A plot is pure data of plain text and plain numbers: one description for browsers, papers and readers who cannot see
it. Text may contain untrusted names: each renderer escapes all text in one place. A missing value is None, drawn as a
gap.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Form = Literal["number", "count", "share"]
"""Format of values: 1.87; 20; 0.9 as 90 %."""

Tone = Literal["", "good", "warn", "bad", "dim"]
"""Meaning of a series or a line; without a tone it takes the next color."""


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
    """Share of the reference's LoRA parameters."""
    aside: str = ""
    """Suffix of the name if its interval is of a different kind."""

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
Box = tuple[float, float, float, float]
"""Left, lower, right and upper end."""


def sides_of_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    inside: Box,
    taken: Sequence[Box],
    gap: float,
) -> list[Side | None]:
    """Return the side of each point on which its label covers no mark, no other label and nothing in `taken`.

    None if there is no room on any side, so that the label is left out. All lengths are in one unit, such as pixels;
    sizes: of the labels; inside: where labels may stand; gap: from the center of a point to its label.
    """
    mark = gap - 1
    boxes = [*taken, *((x - mark, y - mark, x + mark, y + mark) for x, y in points)]
    sides: list[Side | None] = []
    for (x, y), (width, height) in zip(points, sizes, strict=True):
        chosen = None
        for right, up in BESIDE:
            left = x + right * gap + (right - 1) * width / 2
            low = y + up * gap + (up - 1) * height / 2
            box = (left, low, left + width, low + height)
            fits = inside[0] <= left and inside[1] <= low and box[2] <= inside[2] and box[3] <= inside[3]
            if fits and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                chosen = right, up
                break
        sides.append(chosen)
    return sides


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


# ---------------------------------------------------------------- colors

SERIES = ("#3b78c4", "#d9822b", "#2f9e77", "#b3589a", "#7352d1", "#8f5f33", "#45a2cc", "#ae9258")
"""Colors of series without a tone, by their position in the plot; the ninth starts again. Any two are at
least 14 apart in CIELAB, also for readers without red or green receptors (Machado, Oliveira and Fernandes,
2009)."""

TONES: dict[Tone, str] = {
    "good": "#2f9e77",
    "warn": "#c98a1b",
    "bad": "#cf4b4b",
    "dim": "#8c8c8c",
}

SHADES = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""Colors of heat maps, from low to high in even steps (viridis, Smith and van der Walt, 2015; CC0)."""


def series_color(tone: Tone, place: int = 0) -> str:
    """Return the color of a series: by its tone, or its position in the plot."""
    return TONES[tone] if tone else SERIES[place % len(SERIES)]
