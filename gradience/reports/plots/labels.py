"""Positions of point labels that do not overlap: the same positions in every renderer.

Positions are tried in turn on a nominal canvas. A point whose label does not fit has no label in the plot; its name is
in the table and in the hover text.
"""

from typing import NamedTuple

from gradience.reports.plots.plot import Axis, Lines, Plot, Points

PLACES = {
    "middle right": (1, 0), "top right": (1, -1), "bottom right": (1, 1),
    "middle left": (-1, 0), "top left": (-1, -1), "bottom left": (-1, 1),
    "top center": (0, -1), "bottom center": (0, 1),
}  # fmt: skip
"""Position of a label in plotly's terms -> steps to the right of its point, and down."""


class Canvas(NamedTuple):
    """Pixels between the axes, for letters of width `LETTER`."""

    width: float
    height: float


PHONE, PAPER, SCREEN = Canvas(270, 220), Canvas(480, 300), Canvas(760, 250)
LETTER, LINE, GAP = 6.6, 14.0, 7.0
"""Pixels of a letter, of a line of text, and from a point to its label."""
LABEL = 28
"""Characters of a label beside a point."""
MARK = 4
"""Pixels from the center of a point's mark to its edges."""


class Box(NamedTuple):
    """An occupied area of the canvas."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "Box") -> bool:
        """Return True if two boxes overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def label_places(plot: Plot, canvas: Canvas = SCREEN) -> dict[int, list[str | None]]:
    """Return, for each series of points with labels, the position of each label; None if there is no room.

    >>> label_places(plot, PHONE)
    {0: ['middle right', 'top right', None]}
    """
    curves = [series for series in plot.series if isinstance(series, Points | Lines)]
    x_ends = _ends(plot.x, [value for series in curves for value in series.x])
    y_ends = _ends(plot.y, [value for series in curves for value in series.y if value is not None])
    named = {
        at: [
            (canvas.width * _share(x, x_ends), canvas.height * (1 - _share(y, y_ends)), label)
            for x, y, label in zip(series.x, series.y, series.labels, strict=True)
        ]
        for at, series in enumerate(plot.series)
        if isinstance(series, Points) and series.labels
    }
    taken = [Box(x - MARK, y - MARK, x + MARK, y + MARK) for points in named.values() for x, y, _ in points]
    for reference in plot.references:
        if reference.on == "y":
            down = canvas.height * (1 - _share(reference.at, y_ends))
            taken.append(Box(canvas.width - LETTER * len(reference.label), down - LINE, canvas.width, down))
    places: dict[int, list[str | None]] = {at: [] for at in named}
    for at, points in named.items():
        for x, y, label in points:
            boxes = _boxes(x, y, label, canvas)
            free = [name for name, box in boxes.items() if not any(map(box.meets, taken))]
            places[at].append(free[0] if free else None)
            taken += [boxes[free[0]]] if free else []
    return places


def _boxes(x: float, y: float, label: str, canvas: Canvas) -> dict[str, Box]:
    """Return the positions of a label inside the canvas: towards the middle of the plot before its edge."""
    width, inwards = LETTER * min(len(label), LABEL), 1 if x <= canvas.width / 2 else -1
    boxes = {}
    for name, (right, down) in sorted(PLACES.items(), key=lambda place: -inwards * place[1][0] or 2):
        left, top = x + right * GAP + (right - 1) / 2 * width, y + down * GAP + (down - 1) / 2 * LINE
        if min(left, top) >= 0 and left + width <= canvas.width and top + LINE <= canvas.height:
            boxes[name] = Box(left, top, left + width, top + LINE)
    return boxes


def _ends(axis: Axis, values: list[float]) -> tuple[float, float]:
    low = min(values, default=0.0) if axis.low is None else axis.low
    high = max(values, default=1.0) if axis.high is None else axis.high
    return low, high


def _share(value: float, ends: tuple[float, float]) -> float:
    """Return the position of a value along the axis, 0 … 1."""
    return (value - ends[0]) / (ends[1] - ends[0]) if ends[1] > ends[0] else 0.5
