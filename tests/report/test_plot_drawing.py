"""How a plot of every kind of series is drawn by plotly and matplotlib: values lie where they belong, names are text,
and none lies on another."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import combinations

import numpy as np
import pytest
from test_faces import SAMPLES

from gradience.reports.plots.plot import (
    SERIES,
    TONES,
    Axis,
    ForestRow,
    Image,
    Intervals,
    Lines,
    Plot,
    Points,
    Reference,
    plots_of,
)
from gradience.reports.plots.plotly import to_plotly

pytest.importorskip("matplotlib")

from gradience.reports.plots.matplotlib import figure_of, image_of

HOSTILE = "</script>$x_1$ \u202e層 &amp;"
NAMES = Axis("module", categories=["q", "k", HOSTILE])
PLOT = Plot(
    "everything",
    "Lines & points",
    Axis("parameters", scale="log", low=100, high=1_000_000),
    Axis("KL", "nats"),
    [
        Lines("a line", [1e3, 1e4, 1e5], [3.0, None, 1.0], marked=True),
        Lines("another", [1e3, 1e5], [0.5, 2.5]),
        Points(HOSTILE, [2e3, 3e4], [2.0, 1.5], ["here", ""]),
    ],
    "It falls from 3 to 1.",
    [Reference(2.0, "margin"), Reference(1e4, "event", on="x", tone="bad")],
)
ENDS = [(1.0, 0.5, 2.0), (-1.0, -1.5, 0.0), (0.5, None, None)]
ROWS = [ForestRow("", value, low, high, "good") for value, low, high in ENDS]
FOREST = Plot(
    "forest", "Forest", Axis("Δ", "points"), Axis("", categories=["first", HOSTILE, "x"]),
    [Intervals(ROWS, {"good": "shown"})], "One row of two is above 0.",
)  # fmt: skip
HEAT = Plot(
    "heat", "Heat", Axis("layer", categories=[str(i) for i in range(90)]), NAMES,
    [Image([[i / 90 for i in range(90)], [None] * 90, [0.5] * 90], color=Axis("use", low=0, high=1, form="share"))],
    "Use rises.",
)  # fmt: skip
EVERY = [PLOT, FOREST, HEAT]


X, Y = Axis("x"), Axis("y")


def plot_of(*series, x=X, y=Y, references=()):
    return Plot("a", "A", x, y, series, "1.", references)


# ---------------------------------------------------------------- matplotlib


def texts_of(plot):
    """Return the SVG's texts; check that it contains the plot's sentence and no script, and is reproducible."""
    image = image_of(plot, "svg")
    root = ElementTree.fromstring(image)
    assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert plot.sentence in "".join(root.itertext())
    assert image == image_of(plot, "svg")
    return {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}


def test_an_svg_holds_its_text_as_text_and_nothing_of_a_name_is_markup():
    shown = HOSTILE.replace("\u202e", r"\u202e")
    named = {
        "Lines & points",
        "KL (nats)",
        "parameters",
        "a line",
        "here",
        "margin",
        "event",
        "10,000",
        shown,
    }
    assert named <= texts_of(PLOT)
    assert {"first", shown} <= texts_of(FOREST)
    assert {"100 %", shown} <= texts_of(HEAT)


def test_values_lie_where_they_belong_on_paper():
    lines, forest, heat = (figure_of(plot).axes[0] for plot in EVERY)
    drawn = {line.get_label(): line for line in lines.get_lines()}
    assert list(drawn["a line"].get_xdata()) == [1e3, 1e4, 1e5]
    assert drawn["a line"].get_ydata()[::2].tolist() == [3.0, 1.0]
    assert lines.get_xlim() == (100, 1_000_000)
    assert forest.get_ylim()[0] > forest.get_ylim()[1]  # the first row stands at the top
    assert next(iter(forest.get_yticklabels())).get_text() == "first"
    (image,) = heat.get_images()
    assert image.get_array().mask.sum() == 90
    assert len(heat.get_xticks()) <= 40


@pytest.mark.parametrize("name", SAMPLES)
def test_nothing_is_cut_off_on_paper(name):
    for plot in plots_of(SAMPLES[name]()).values():
        figure = figure_of(plot)
        figure.draw_without_rendering()
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert min(drawn.x0, drawn.y0, width - drawn.x1, height - drawn.y1) > -0.05, plot.name


# ---------------------------------------------------------------- plotly


def test_plotly_accepts_every_kind_of_series():
    """It raises for a property that there is not."""
    figure = pytest.importorskip("plotly.graph_objects").Figure
    for plot in [*EVERY, *(plot for sample in SAMPLES.values() for plot in plots_of(sample()).values())]:
        assert len(figure(to_plotly(plot)).data) == len(to_plotly(plot)["data"])
        json.dumps(to_plotly(plot), allow_nan=False)


def test_nothing_of_a_name_is_markup_of_plotly():
    for plot in EVERY:
        text = json.dumps(to_plotly(plot), ensure_ascii=False)
        assert "</script" not in text
        assert "\u202e" not in text
        assert "&amp;amp;" in text


def test_values_are_those_of_the_plot_in_a_browser():
    line, _, points = to_plotly(PLOT)["data"]
    assert (line["x"], line["y"]) == ([1e3, 1e4, 1e5], [3.0, None, 1.0])
    assert to_plotly(PLOT)["layout"]["xaxis"]["range"] == [2, 6]
    assert points["y"] == [2.0, 1.5]
    lines, marks = to_plotly(FOREST)["data"]
    assert lines["x"] == [0.5, 2.0, None, -1.5, 0.0, None, None, None, None]
    assert (marks["x"], marks["y"]) == ([1.0, -1.0, 0.5], [0, 1, 2])
    (image,) = to_plotly(HEAT)["data"]
    assert image["z"][1] == [None] * 90
    assert to_plotly(HEAT)["layout"]["yaxis"]["autorange"] == "reversed"


def test_a_label_of_a_line_stands_where_the_line_does_on_a_logarithmic_axis():
    layout = to_plotly(plot_of(y=Axis("y", scale="log"), references=[Reference(100.0, "margin")]))["layout"]
    assert (layout["shapes"][0]["y0"], layout["annotations"][0]["y"]) == (100.0, 2.0)


def test_names_beside_an_axis_stay_apart():
    names = [
        f"bert.encoder.layer.{at}.attention.self.{kind}" for at in range(12) for kind in ("query", "value")
    ]
    shown = to_plotly(plot_of(y=Axis("module", categories=names)))["layout"]["yaxis"]["ticktext"]
    assert len(set(shown)) == len(names)
    assert max(map(len, shown)) <= 32
    assert all(short.endswith(name[-12:]) for short, name in zip(shown, names, strict=True))


# ---------------------------------------------------------------- names of points, and colors

SAME = Points("", [0.5] * 4, [0.0] * 4, ["first", "second", "third", "fourth"])
CROWD = Points(
    "", [0.1 * at for at in range(11)], [-0.1 * at for at in range(11)], [f"ladder.r{at}" for at in range(11)]
)


@pytest.mark.parametrize("points", [SAME, CROWD], ids=["one place", "a crowd"])
def test_no_label_lies_on_another_or_outside(points):
    figure = figure_of(plot_of(points, references=[Reference(0.0, "margin")]))
    (axes,) = figure.axes
    labels = [text.get_window_extent() for text in axes.texts]
    assert len(labels) > 4
    assert not any(box.overlaps(other) for box, other in combinations(labels, 2))
    inside = axes.get_window_extent()
    assert all(inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1) for box in labels[1:])


@pytest.mark.parametrize("points", [SAME, CROWD], ids=["one place", "a crowd"])
def test_no_label_of_a_page_lies_on_another(points):
    (trace,) = to_plotly(plot_of(points))["data"]
    assert trace["hovertext"] == points.labels
    shown = [
        (x, y, side)
        for x, y, label, side in zip(
            trace["x"], trace["y"], trace["text"], trace["textposition"], strict=True
        )
        if label
    ]
    assert len(shown) > 4 if points is CROWD else 2 <= len(shown) <= 4
    assert len(set(shown)) == len(shown)


def test_series_are_told_apart_without_color():
    axes = figure_of(PLOT).axes[0]
    assert len({(line.get_marker(), line.get_linestyle()) for line in axes.get_lines()[:3]}) == 3
    tones = [Points("", [1.0], [1.0], tone=tone) for tone in ("good", "warn", "bad", "dim")]
    traces = to_plotly(plot_of(*tones))["data"]
    assert len({trace["marker"]["symbol"] for trace in traces}) == len(tones)


NO_RED = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
NO_GREEN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
NO_BLUE = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
SEEN = {
    "all": np.eye(3),
    "no red": np.array(NO_RED),
    "no green": np.array(NO_GREEN),
    "no blue": np.array(NO_BLUE),
}
"""Linear sRGB as it is seen: Machado, Oliveira and Fernandes, 2009, severity 1."""
CARDS = ("#f7f8fa", "#1b2027")
"""What plots stand on, light and dark."""


def linear(color):
    parts = np.array([int(color[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def lab(light):
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = matrix @ np.clip(light, 0, 1) / [0.9505, 1, 1.089]
    cube = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * cube[1] - 16, 500 * (cube[0] - cube[1]), 200 * (cube[1] - cube[2])])


@pytest.mark.parametrize("sight", SEEN)
def test_colors_of_series_are_apart(sight):
    seen = [lab(SEEN[sight] @ linear(color)) for color in SERIES]
    least = min(np.linalg.norm(color - other) for color, other in combinations(seen, 2))
    assert least > (9 if sight == "no blue" else 14)


@pytest.mark.parametrize("card", CARDS)
def test_lines_are_seen_on_light_and_on_dark_cards(card):
    for color in {*SERIES, *TONES.values()}:
        dark, light = sorted(linear(shown) @ [0.2126, 0.7152, 0.0722] for shown in (color, card))
        assert (light + 0.05) / (dark + 0.05) > 2.6, color
