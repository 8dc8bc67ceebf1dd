"""The drawing of every kind of series by plotly, for a page and for a notebook: it accepts the figure, values stay, no
name becomes markup."""

from __future__ import annotations

import json

import pytest
from test_matplotlib import EVERY, FOREST, HEAT, HOSTILE, LYING, PLOT, STACKED

from gradience import audit_adapter
from gradience.cli.demo import example_adapter
from gradience.report.plots.plot import Axis, Plot, Points, Reference
from gradience.report.plots.plotly import to_plotly
from gradience.report.plots.plotly_figure import figure_of


def test_plotly_accepts_every_kind_of_series():
    pytest.importorskip("plotly")
    for plot in EVERY:
        figure = figure_of([plot])  # raises for a property that there is not
        assert figure.layout.title.text.startswith(plot.title.partition(" ")[0])
    figure = audit_adapter(example_adapter()).plot("energy")
    assert len(figure.data) == 16
    assert figure.data[0].y[-1] == pytest.approx(1.0)


def test_nothing_of_a_name_is_markup():
    for plot in EVERY:
        text = json.dumps(to_plotly(plot), ensure_ascii=False)
        assert "</script" not in text
        assert "\u202e" not in text
        assert "&amp;amp;" in text or HOSTILE not in repr(plot)


def test_values_are_those_of_the_plot():
    low, high, line, *_ = to_plotly(PLOT)["data"]
    assert (line["x"], line["y"]) == ([1e3, 1e4, 1e5], [3.0, None, 1.0])
    assert (low["y"], high["y"]) == ([2.0, 2.0, 0.5], [4.0, 4.0, 1.5])
    assert to_plotly(PLOT)["layout"]["xaxis"]["range"] == [2, 6]
    lines, marks = to_plotly(FOREST)["data"]
    start, end = to_plotly(FOREST)["layout"]["xaxis"]["range"]
    assert start < -1 < 2 < end
    assert lines["x"] == [
        0.5,
        2.0,
        None,
        pytest.approx(start),
        0.0,
        None,
    ]  # an open end goes as far as the axis
    assert (marks["x"], marks["y"]) == ([1.0, -1.0, None], [0, 1, 2])
    (bars,) = to_plotly(LYING)["data"]
    assert (bars["orientation"], bars["x"]) == ("h", [1e6, 2e6])
    (image,) = to_plotly(HEAT)["data"]
    assert image["z"][1] == [None] * 90
    assert to_plotly(HEAT)["layout"]["yaxis"]["autorange"] == "reversed"


def test_a_label_of_a_line_stands_where_the_line_does_on_a_logarithmic_axis():
    plot = Plot("a", "A", Axis("x"), Axis("y", scale="log"), [], "1.", [Reference(100.0, "margin")])
    layout = to_plotly(plot)["layout"]
    assert (layout["shapes"][0]["y0"], layout["annotations"][0]["y"]) == (100.0, 2.0)


def test_series_are_told_apart_without_colour():
    assert len({bars["marker"]["pattern"]["shape"] for bars in to_plotly(STACKED)["data"][1:]}) == 1
    tones = [Points("", [1.0], [1.0], tone=tone) for tone in ("good", "warn", "bad", "dim")]
    traces = to_plotly(Plot("a", "A", Axis("x"), Axis("y"), tones, "1."))["data"]
    assert len({trace["marker"]["symbol"] for trace in traces}) == len(tones)


def test_a_phone_has_the_names_for_which_it_has_room():
    crowd = Points("", [float(at) for at in range(12)], [0.0] * 12, [f"a candidate {at}" for at in range(12)])
    (trace,) = to_plotly(Plot("a", "A", Axis("x"), Axis("y"), [crowd], "1."))["data"]
    named = [sum(map(bool, text)) for text in (trace["text"], trace["meta"]["text"])]
    assert 0 < named[1] < named[0] <= 12


def test_names_beside_an_axis_stay_apart():
    names = [
        f"bert.encoder.layer.{index}.attention.self.{kind}"
        for index in range(12)
        for kind in ("query", "value")
    ]
    plot = Plot("x", "X", Axis("n"), Axis("module", scale="categories", categories=names), [], "24.")
    shown = to_plotly(plot)["layout"]["yaxis"]["ticktext"]
    assert len(set(shown)) == len(names)
    assert max(map(len, shown)) <= 32
    assert all(short.endswith(name[-12:]) for short, name in zip(shown, names, strict=True))
