"""What a plot is made of: axes, series of a few kinds, reference lines, and a sentence that says what is seen.

A plot is pure data of plain text and plain numbers: one description for the page in a browser, for a paper and for
whoever cannot see it. Text may hold a stranger's names: each renderer escapes all text in one place. A value that does
not exist is None, and leaves a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gradience.reports.base.blocks import Table

Scale = Literal["linear", "log", "categories"]
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
    scale: Scale = "linear"
    low: float | None = None
    high: float | None = None
    """The ends of the axis; None leaves them to the values. A logarithmic axis has them above 0."""
    categories: Sequence[str] = ()
    """Of an axis of categories, the name of each position 0, 1, 2, … of the series."""
    form: Form = "number"

    @property
    def label(self) -> str:
        """The title with its unit."""
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
    band: str = ""
    """What the band is, such as `10th to 90th percentile`."""
    step: bool = False
    """Joined by steps: a value holds until the next."""
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
    tone: Tone = ""
    shade: float | None = None
    hover: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class BarsOf:
    """A bar for each position of an axis of categories, which is x, or y where the bars lie."""

    name: str
    at: Sequence[float]
    """Where each bar stands."""
    values: Sequence[float | None]
    lying: bool = False
    """Bars go to the right, the first category at the top: for long names."""
    stacked: bool = False
    """On top of the series before; otherwise beside it."""
    tone: Tone = ""
    hover: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie between edges; counted by whoever makes the plot."""

    name: str
    edges: Sequence[float]
    """One more than there are counts, ascending."""
    counts: Sequence[int]
    tone: Tone = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """One row of a forest plot."""

    label: str
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
    """A forest plot: a value and its interval on x, one below the other. The axis y takes the labels: it is one of
    categories, empty, and the first row stands at the top."""

    name: str
    rows: Sequence[Interval]
    inner: str = ""
    """What the heavier intervals are; empty without any."""


@dataclass(frozen=True, slots=True)
class Image:
    """A heat map: a colour for each cell. Both axes are of categories; the first row stands at the top."""

    name: str
    values: Sequence[Sequence[float | None]]
    """One row for each category of y, in it a value for each of x; None is a cell without one."""
    hover: Sequence[Sequence[str]] = ()
    color: Axis = Axis("")
    """What the colour says, and its ends."""


Series = Lines | Points | BarsOf | Histogram | Intervals | Image


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

    def table(self) -> Table:
        """Return the figures behind the plot, every value of every series."""
        from gradience.report.plots.table import table_of

        return table_of(self)
