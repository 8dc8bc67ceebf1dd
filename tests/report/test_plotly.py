"""The drawing of every kind of series by plotly: it accepts the figure, values stay, no name becomes markup."""

from __future__ import annotations

import json

import pytest
from test_matplotlib import EVERY, FOREST, HEAT, HOSTILE, LYING, PLOT

from gradience import audit_adapter
from gradience.cli.demo import example_adapter
from gradience.report.plots.plotly_figure import figure_of, plotly_dict


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
        text = json.dumps(plotly_dict(plot), ensure_ascii=False)
        assert "</script" not in text
        assert "\u202e" not in text
        assert "&amp;amp;" in text or HOSTILE not in repr(plot)


def test_values_are_those_of_the_plot():
    low, high, line, *_ = plotly_dict(PLOT)["data"]
    assert (line["x"], line["y"]) == ([1e3, 1e4, 1e5], [3.0, None, 1.0])
    assert (low["y"], high["y"]) == ([2.0, 2.0, 0.5], [4.0, 4.0, 1.5])
    assert plotly_dict(PLOT)["layout"]["xaxis"]["range"] == [2, 6]
    first, second = plotly_dict(FOREST)["data"]
    assert (
        first["x"][0] - first["error_x"]["arrayminus"][0],
        first["x"][0] + first["error_x"]["array"][0],
    ) == (0.5, 2)
    assert second["x"][0] - second["error_x"]["arrayminus"][0] == -1  # an open end goes as far as any value
    (bars,) = plotly_dict(LYING)["data"]
    assert (bars["orientation"], bars["x"]) == ("h", [1e6, 2e6])
    (image,) = plotly_dict(HEAT)["data"]
    assert image["z"][1] == [None] * 90
    assert plotly_dict(HEAT)["layout"]["yaxis"]["autorange"] == "reversed"
