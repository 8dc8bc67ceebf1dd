"""Where the names of points stand, so that none lies on another: the same places in every renderer.

Places are tried one after the other on a nominal canvas, at last on a line across as well; what finds none has no name
in the plot, and keeps it in the table and where the pointer is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from gradience.report.plots.plot import Axis, Lines, Plot, Points

Place = Literal[
    "middle right", "top right", "bottom right", "middle left", "top left", "bottom left", "top center",
    "bottom center",
]  # fmt: skip
"""Beside a point, as plotly calls it."""


class Canvas(NamedTuple):
    """Pixels between the axes, where a letter has `LETTER`."""

    width: float
    height: float

    def narrowed(self, share: float) -> Canvas:
        """Return the canvas with a share of its width, and less height where it is narrower."""
        return Canvas(self.width * share, self.height * min(1.0, share))


PHONE, PAPER, SCREEN = Canvas(270, 220), Canvas(480, 300), Canvas(760, 250)
LETTER, LINE, GAP = 6.6, 14.0, 7.0
"""Pixels of a letter, of a line of text, and from a point to its name."""
LABEL = 28
"""Characters of a name beside a point."""


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


def label_places(plot: Plot, canvas: Canvas = SCREEN) -> dict[int, list[Place | None]]:
    """Return, for each series of points with labels, the place of each label; None where there is no room.

    >>> label_places(plot, PHONE)
    {0: ['middle right', 'top right', None]}
    """
    named = {at: one for at, one in enumerate(plot.series) if isinstance(one, Points) and one.labels}
    if not named:
        return {}
    drawn = _Drawn(plot, canvas)
    taken = [*drawn.marks(named.values()), *drawn.upright_lines(), *drawn.names_of_references()]
    lines = list(drawn.references())
    places: dict[int, list[Place | None]] = {at: [None] * len(points.x) for at, points in named.items()}
    for avoided in (lines, []):
        for at, points in named.items():
            for number, (x, y, label) in enumerate(zip(points.x, points.y, points.labels, strict=True)):
                if y is None or places[at][number]:
                    continue
                place = drawn.free(x, y, label, [*taken, *avoided])
                places[at][number] = place and place[0]
                taken += [place[1]] if place else []
    return places


class _Drawn:
    """A plot on a canvas: values as pixels."""

    def __init__(self, plot: Plot, canvas: Canvas) -> None:
        self.plot, self.canvas = plot, canvas
        drawn = [one for one in plot.series if isinstance(one, Points | Lines)]
        self.across = _ends(plot.x, [value for one in drawn for value in one.x])
        self.down = _ends(plot.y, [value for one in drawn for value in one.y if value is not None])

    def x(self, value: float) -> float:
        return self.canvas.width * _share(value, self.across, self.plot.x)

    def y(self, value: float) -> float:
        return self.canvas.height * (1 - _share(value, self.down, self.plot.y))

    def marks(self, series: Iterable[Points]) -> Iterator[_Box]:
        for one in series:
            for x, y in zip(one.x, one.y, strict=True):
                if y is not None:
                    yield _Box(self.x(x) - 4, self.y(y) - 4, self.x(x) + 4, self.y(y) + 4)

    def upright_lines(self) -> Iterator[_Box]:
        """Intervals of points."""
        for one in self.plot.series:
            if isinstance(one, Lines) and len(set(one.x)) == 1:
                ends = [self.y(value) for value in one.y if value is not None]
                if ends:
                    yield _Box(self.x(one.x[0]) - 1, min(ends), self.x(one.x[0]) + 1, max(ends))

    def references(self) -> Iterator[_Box]:
        """Lines across."""
        for line in self.plot.references:
            if line.on == "y":
                yield _Box(0, self.y(line.at) - 1, self.canvas.width, self.y(line.at) + 1)

    def names_of_references(self) -> Iterator[_Box]:
        """They stand on the lines, at the right end."""
        width = self.canvas.width
        for line in self.plot.references:
            if line.on == "y":
                bottom = self.y(line.at)
                yield _Box(width - LETTER * len(line.label), bottom - LINE, width, bottom)

    def free(self, x: float, y: float, label: str, taken: Sequence[_Box]) -> tuple[Place, _Box] | None:
        """The first place where the label lies on nothing: towards the middle of the plot before its edge."""
        canvas = self.canvas
        at, width = (self.x(x), self.y(y)), LETTER * min(len(label), LABEL)
        places: list[Place] = list(get_args(Place))
        if at[0] > canvas.width / 2:
            places = [*places[3:6], *places[:3], *places[6:]]
        for place in places:
            box = _box(at, place, width)
            inside = min(box.left, box.top) >= 0 and box.right <= canvas.width and box.bottom <= canvas.height
            if inside and not any(box.meets(other) for other in taken):
                return place, box
        return None


def _box(at: tuple[float, float], place: Place, width: float) -> _Box:
    """Of a label at a place beside the point."""
    x, y = at
    high, beside = place.split(" ")
    left = {"right": x + GAP, "left": x - GAP - width, "center": x - width / 2}[beside]
    top = {"middle": y - LINE / 2, "top": y - GAP - LINE, "bottom": y + GAP}[high]
    return _Box(left, top, left + width, top + LINE)


def _ends(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    return low, high


def _share(value: float, ends: tuple[float, float], axis: Axis) -> float:
    """How far along the axis a value lies, 0 … 1."""
    if axis.scale == "log":
        value, ends = math.log(value), (math.log(ends[0]), math.log(ends[1]))
    return (value - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.5
