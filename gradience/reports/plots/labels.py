"""Positions of point labels that do not overlap: the same positions in every renderer.

Positions are tried in turn on a nominal canvas, finally also on top of a horizontal line. A point whose label does not
fit has no label in the plot; its name is in the table and in the hover text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from gradience.reports.plots.plot import Axis, Lines, Plot, Points

Place = Literal[
    "middle right", "top right", "bottom right", "middle left", "top left", "bottom left", "top center",
    "bottom center",
]  # fmt: skip
"""Position beside a point, in plotly's terms."""


class Canvas(NamedTuple):
    """Pixels between the axes, for letters of width `LETTER`."""

    width: float
    height: float


PHONE, PAPER, SCREEN = Canvas(270, 220), Canvas(480, 300), Canvas(760, 250)
LETTER, LINE, GAP = 6.6, 14.0, 7.0
"""Pixels of a letter, of a line of text, and from a point to its label."""
LABEL = 28
"""Characters of a label beside a point."""


class Box(NamedTuple):
    """An occupied area of the canvas."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Return True if two boxes overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def label_places(plot: Plot, canvas: Canvas = SCREEN) -> dict[int, list[Place | None]]:
    """Return, for each series of points with labels, the position of each label; None if there is no room.

    >>> label_places(plot, PHONE)
    {0: ['middle right', 'top right', None]}
    """
    named = {
        at: series for at, series in enumerate(plot.series) if isinstance(series, Points) and series.labels
    }
    if not named:
        return {}
    curves = [series for series in plot.series if isinstance(series, Points | Lines)]
    x_ends = _ends(plot.x, [value for series in curves for value in series.x])
    y_ends = _ends(plot.y, [value for series in curves for value in series.y if value is not None])

    def pixels(x: float, y: float) -> tuple[float, float]:
        return canvas.width * _share(x, x_ends), canvas.height * (1 - _share(y, y_ends))

    taken: list[Box] = []
    for points in named.values():
        for x, y in zip(points.x, points.y, strict=True):
            across, down = pixels(x, y)
            taken.append(Box(across - 4, down - 4, across + 4, down + 4))
    lines: list[Box] = []
    for reference in plot.references:
        if reference.on == "y":
            _, down = pixels(x_ends[0], reference.at)
            taken.append(Box(canvas.width - LETTER * len(reference.label), down - LINE, canvas.width, down))
            lines.append(Box(0, down - 1, canvas.width, down + 1))
    places: dict[int, list[Place | None]] = {at: [None] * len(points.x) for at, points in named.items()}
    for avoided in (lines, []):
        for at, points in named.items():
            for number, (x, y, label) in enumerate(zip(points.x, points.y, points.labels, strict=True)):
                if places[at][number]:
                    continue
                for place_name, box in _boxes(*pixels(x, y), label, canvas):
                    if not any(box.meets(other) for other in (*taken, *avoided)):
                        places[at][number] = place_name
                        taken.append(box)
                        break
    return places


def _boxes(x: float, y: float, label: str, canvas: Canvas) -> list[tuple[Place, Box]]:
    """Return the positions of a label inside the canvas: towards the middle of the plot before its edge."""
    width = LETTER * min(len(label), LABEL)
    places: list[Place] = list(get_args(Place))
    if x > canvas.width / 2:
        places = [*places[3:6], *places[:3], *places[6:]]
    boxes: list[tuple[Place, Box]] = []
    for place in places:
        high, beside = place.split(" ")
        left = {"right": x + GAP, "left": x - GAP - width, "center": x - width / 2}[beside]
        top = {"middle": y - LINE / 2, "top": y - GAP - LINE, "bottom": y + GAP}[high]
        if min(left, top) >= 0 and left + width <= canvas.width and top + LINE <= canvas.height:
            boxes.append((place, Box(left, top, left + width, top + LINE)))
    return boxes


def _ends(axis: Axis, values: Sequence[float]) -> tuple[float, float]:
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    return low, high


def _share(value: float, ends: tuple[float, float]) -> float:
    """Return the position of a value along the axis, 0 … 1."""
    return (value - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.5
