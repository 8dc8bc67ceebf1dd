"""The names of points in a plot: none lies on another, on a mark or on a line, and each stands inside."""

from __future__ import annotations

import pytest

from gradience.report.plots.labels import GAP, LETTER, LINE, PAPER, PHONE, SCREEN, label_places
from gradience.report.plots.plot import Axis, Lines, Plot, Points, Reference
from gradience.report.plots.runs import together

AXES = Axis("size", low=0.0, high=1.0), Axis("delta", low=-4.0, high=2.0)
SAME = Points("", [0.5] * 4, [0.0] * 4, ["first", "second", "third", "fourth"])
CROWD = Points(
    "", [0.1 * at for at in range(11)], [-0.1 * at for at in range(11)], [f"ladder.r{at}" for at in range(11)]
)


def plot_of(*series, references=()):
    return Plot("pareto", "Pareto", *AXES, series, "1.", references)


def boxes(plot, canvas):
    """Left, top, right and bottom of each label that has a place, counted anew from its place."""
    for at, places in label_places(plot, canvas).items():
        points = plot.series[at]
        for x, y, label, place in zip(points.x, points.y, points.labels, places, strict=True):
            if place is None:
                continue
            high, beside = place.split(" ")
            across = x * canvas.width
            down = (2.0 - y) / 6 * canvas.height
            wide = LETTER * len(label)
            left = {"left": across - GAP - wide, "right": across + GAP, "center": across - wide / 2}[beside]
            top = {"top": down - GAP - LINE, "bottom": down + GAP, "middle": down - LINE / 2}[high]
            yield left, top, left + wide, top + LINE


def meet(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("canvas", [PHONE, PAPER, SCREEN], ids=["phone", "paper", "screen"])
@pytest.mark.parametrize("points", [SAME, CROWD], ids=["one place", "a crowd"])
def test_no_label_lies_on_another_or_outside(points, canvas):
    labels = list(boxes(plot_of(points), canvas))
    assert len(labels) > 3
    assert not any(meet(one, other) for at, one in enumerate(labels) for other in labels[:at])
    assert all(left >= 0 and top >= 0 and right <= canvas.width for left, top, right, _ in labels)


def test_labels_keep_off_lines():
    line = Lines("", [0.6, 0.6], [-3.0, 1.0])
    plot = plot_of(
        Points("", [0.5], [0.0], ["a long name of an adapter"]), line, references=[Reference(0.0, "original")]
    )
    ((left, top, right, bottom),) = boxes(plot, SCREEN)
    down = 2 / 6 * SCREEN.height
    assert not top < down < bottom
    assert not left < 0.6 * SCREEN.width < right


def test_a_point_without_a_value_has_no_label_and_a_plot_without_labels_no_places():
    assert label_places(plot_of(Points("", [0.1, 0.2], [None, 1.0], ["a", "b"]))) == {
        0: [None, "middle right"]
    }
    assert label_places(plot_of(Points("", [0.1], [1.0]))) == {}


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([(10, "a"), (60, "b")], [(10, "a"), (60, "b")]),
        ([(10, "a"), (14, "b"), (60, "c")], [(10, "a, b"), (14, ""), (60, "c")]),
        ([(12, "b"), (10, "a"), (13, "b")], [(10, "a, b"), (12, ""), (13, "")]),
        ([(10, "a"), (14, "b"), (18, "c")], [(10, "a, b"), (14, ""), (18, "c")]),
        ([], []),
    ],
)
def test_events_at_close_steps_have_one_label_and_keep_their_lines(events, shown):
    lines = together([Reference(at, label, on="x") for at, label in events], steps=100)
    assert [(line.at, line.label) for line in lines] == shown
