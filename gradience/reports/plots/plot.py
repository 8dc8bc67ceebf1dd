"""The model of a plot: axes, series of a few kinds, reference lines, a sentence that says what is seen, and colours.

A plot is pure data of plain text and plain numbers: one description for the page in a browser, for a paper and for
whoever cannot see it. Text may hold a stranger's names: each renderer escapes all text in one place. A value that does
not exist is None, and leaves a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Form = Literal["number", "count", "share", "bytes"]
"""How values are shown: 1.87; 0.9 as 90 %; 298500 as 298.5 kB."""

Tone = Literal["", "accent", "good", "warn", "bad", "dim"]
"""What a series or a line says; without one it takes the next colour, or that of its shade."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What is on one side of a plot."""

    title: str
    unit: str = ""
    """Shown behind the title, such as `MB`; a share needs none."""
    scale: Literal["linear", "log"] = "linear"
    low: float | None = None
    high: float | None = None
    """The ends of the axis; None leaves them to the values. A logarithmic axis has them above 0."""
    categories: Sequence[str] = ()
    """The names of positions 0, 1, 2, …; upwards the first stands at the top."""
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
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    """A band around the line, such as an interval or percentiles; empty for none."""
    marked: bool = False
    """Each point has a mark."""
    dashed: bool = False
    tone: Tone = ""
    shade: float | None = None
    """0 … 1: a colour from one scale instead, such as the depth of a layer."""
    hover: Sequence[str] = ()
    """Said of each point in place of its values; lines of text are parted by newlines."""


@dataclass(frozen=True, slots=True)
class Points:
    """Marks that are not joined."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    labels: Sequence[str] = ()
    """Written beside each point; empty for none."""
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    """The interval of each point, an upright line; empty for none."""
    tone: Tone = ""
    hover: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar for each category of an axis; those of several series stand beside each other."""

    name: str
    values: Sequence[float | None]
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of a forest plot."""

    value: float | None
    low: float | None
    high: float | None
    """An end that is None is open: a one-sided bound."""
    tone: Tone = ""
    hover: str = ""
    inner: tuple[float, float] | None = None
    """An interval of another kind, drawn heavier."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """A forest plot: a value and its interval on x for each category of y."""

    name: str
    rows: Sequence[Interval]
    inner: str = ""
    """What the heavier intervals are; empty without any."""


@dataclass(frozen=True, slots=True)
class Image:
    """A heat map: a colour for each cell of two axes of categories."""

    name: str
    values: Sequence[Sequence[float | None]]
    """One row for each category of y, in it a value for each of x; None is a cell without one."""
    hover: Sequence[Sequence[str]] = ()
    color: Axis = Axis("")
    """What the colour says, and its ends."""


Series = Lines | Points | Bars | Intervals | Image


@dataclass(frozen=True, slots=True)
class Reference:
    """A line across the plot: a margin, a target, an event."""

    at: float
    label: str
    on: Literal["x", "y"] = "y"
    """The axis that `at` is a value of: `x` is an upright line."""
    tone: Tone = "dim"


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot. Several beside each other are several plots."""

    name: str
    """Its anchor and file name: small letters, digits and hyphens, once in a document."""
    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    sentence: str
    """What is seen, for whoever does not look: with figures, a full sentence."""
    references: Sequence[Reference] = ()

    @property
    def crowded(self) -> bool:
        """Several series have their place on a scale of colours: a legend names only a few of them."""
        return any(isinstance(series, Lines) and series.shade is not None for series in self.series)


# ---------------------------------------------------------------- colours

SERIES = ("#3b78c4", "#d9822b", "#2f9e77", "#b3589a", "#7352d1", "#8f5f33", "#45a2cc", "#ae9258")
"""Of series without a tone, by their place in the plot; the ninth begins anew. Any two are 14 or more apart in CIELAB,
also for who has no red or no green receptor (Machado, Oliveira and Fernandes, 2009)."""

TONES: dict[Tone, str] = {
    "accent": SERIES[0],
    "good": "#2f9e77",
    "warn": "#c98a1b",
    "bad": "#cf4b4b",
    "dim": "#8c8c8c",
}

SHADES = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
"""From low to high, even steps (viridis, Smith and van der Walt, 2015; CC0): heat maps, and series by their shade."""

SHADE_LOW, SHADE_TOP = 0.3, 0.85
"""Lines use the scale between these: its dark end is not seen on a dark page, its light end not on white."""


def series_color(tone: Tone, place: int = 0, shade: float | None = None) -> str:
    """Return the colour of a series: of its tone, of its shade, or of its place in the plot."""
    if tone:
        return TONES[tone]
    if shade is None:
        return SERIES[place % len(SERIES)]
    at = (SHADE_LOW + (SHADE_TOP - SHADE_LOW) * shade) * (len(SHADES) - 1)
    step = min(max(int(at), 0), len(SHADES) - 2)
    low, high = (bytes.fromhex(color[1:]) for color in SHADES[step : step + 2])
    mixed = bytes(round(a + (b - a) * (at - step)) for a, b in zip(low, high, strict=True))
    return f"#{mixed.hex()}"
