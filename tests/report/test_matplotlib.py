"""The drawing of every kind of series by matplotlib: text is text, values lie where they belong, bytes repeat."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from test_faces import SAMPLES

from gradience.report.plots.kinds import plots_of
from gradience.report.plots.plot import (
    Axis,
    BarsOf,
    Histogram,
    Image,
    Interval,
    Intervals,
    Lines,
    Plot,
    Points,
    Reference,
)

pytest.importorskip("matplotlib")

from gradience.report.plots.paper import figure_of, image_of

HOSTILE = "</script>$x_1$ \u202e層 &amp;"
NAMES = Axis("module", scale="categories", categories=["q", "k", HOSTILE])
PLOT = Plot(
    "everything",
    "Lines & points",
    Axis("parameters", scale="log", low=100, high=1_000_000),
    Axis("KL", "nats"),
    [
        Lines("a line", [1e3, 1e4, 1e5], [3.0, None, 1.0], [2.0, 2.0, 0.5], [4.0, 4.0, 1.5], marked=True),
        Lines("a step", [1e3, 1e5], [0.5, 2.5], step=True, dashed=True, tone="bad"),
        Points(HOSTILE, [2e3, 3e4], [2.0, None], ["here", ""]),
    ],
    "It falls from 3 to 1.",
    [Reference(2.0, "margin"), Reference(1e4, "event", on="x", tone="bad")],
)
ROWS = [
    Interval("first", 1.0, 0.5, 2.0),
    Interval(HOSTILE, -1.0, None, 0.0),
    Interval("x", None, None, None),
]
FOREST = Plot(
    "forest",
    "Forest",
    Axis("Δ", "points"),
    Axis("", scale="categories"),
    [Intervals("95 %", ROWS)],
    "One row of two is above 0.",
)  # fmt: skip
BARS = [
    BarsOf("a", [0, 1, 2], [1.0, 2.0, None], stacked=True),
    BarsOf("b", [0, 1, 2], [3.0, 1.0, 2.0], stacked=True),
]
STACKED = Plot("stacked", "Stacked", NAMES, Axis("share", form="share"), BARS, "b is on a.")
LYING = Plot(
    "lying", "Lying", Axis("bytes", form="bytes"), NAMES, [BarsOf("", [0, 1], [1e6, 2e6], lying=True)], "Two."
)
COUNTS = Plot(
    "counts", "Counts", Axis("k"), Axis("modules"), [Histogram("", [0.5, 1.5, 2.5], [3, 1])], "Most are 1."
)
HEAT = Plot(
    "heat", "Heat", Axis("layer", scale="categories", categories=[str(i) for i in range(90)]), NAMES,
    [Image("", [[i / 90 for i in range(90)], [None] * 90, [0.5] * 90], color=Axis("use", low=0, high=1, form="share"))],
    "Use rises.",
)  # fmt: skip
EVERY = [PLOT, FOREST, STACKED, LYING, COUNTS, HEAT]


def test_an_svg_holds_its_text_as_text_and_nothing_of_a_name_is_markup():
    image = image_of(EVERY, "svg")
    root = ElementTree.fromstring(image)
    texts = {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}
    shown = HOSTILE.replace("\u202e", r"\u202e")
    said = {
        "Lines & points",
        "KL (nats)",
        "parameters",
        "a line",
        "here",
        "margin",
        "event",
        "first",
        "10,000",
        "2.0 MB",
    }
    assert said | {shown, "100 %"} <= texts
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert "It falls from 3 to 1." in "".join(root.itertext())
    assert image == image_of(EVERY, "svg")


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF-"), ("png", b"\x89PNG")])
def test_other_files_repeat_their_bytes(kind, start):
    image = image_of([COUNTS], kind)
    assert image.startswith(start)
    assert image == image_of([COUNTS], kind)


def test_values_lie_where_they_belong():
    lines, forest, stacked, lying, counts, heat, *_ = figure_of(EVERY).axes
    drawn = {line.get_label(): line for line in lines.get_lines()}
    assert list(drawn["a line"].get_xdata()) == [1e3, 1e4, 1e5]
    assert drawn["a line"].get_ydata()[::2].tolist() == [3.0, 1.0]
    assert lines.get_xlim() == (100, 1_000_000)
    assert forest.get_ylim()[0] > forest.get_ylim()[1]  # the first row stands at the top
    assert next(iter(forest.get_yticklabels())).get_text() == "first"
    assert [bar.get_y() for bar in stacked.patches] == [0, 0, 0, 1.0, 2.0, 0.0]
    assert [bar.get_width() for bar in lying.patches] == [1e6, 2e6]
    assert counts.patches[0].get_data().values.tolist() == [3, 1]
    (image,) = heat.get_images()
    assert image.get_array().mask.sum() == 90
    assert len(heat.get_xticks()) <= 40


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_is_cut_off_in_a_column_of_a_paper(name):
    for plot in plots_of(SAMPLES[name]()).values():
        figure = figure_of([plot], width=3.25)
        assert figure.get_size_inches()[0] == 3.25
        figure.draw_without_rendering()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.05, plot.name


def test_plots_in_a_column_stand_below_each_other_without_titles():
    column = figure_of([PLOT, COUNTS], width=3.25, titles=False)
    first, second = column.axes
    assert first.get_position().y0 > second.get_position().y1
    assert not any(axes.get_title() for axes in column.axes)
    page = figure_of([PLOT, COUNTS], width=7)
    assert page.axes[0].get_position().x1 < page.axes[1].get_position().x0


def test_series_are_told_apart_without_colour():
    axes = figure_of([PLOT]).axes[0]
    looks = {(line.get_marker(), line.get_linestyle()) for line in axes.get_lines()[:3]}
    assert len(looks) == 3
    bars = figure_of([STACKED]).axes[0]
    assert len({bar.get_hatch() for bar in bars.patches}) == 2
