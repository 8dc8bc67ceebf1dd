"""The table behind a plot of named points, and of counts: every figure with its name."""

from __future__ import annotations

import pytest

from gradience.report.plots.plot import Axis, Histogram, Lines, Plot, Points
from gradience.report.plots.table import bin_of, table_of


def text(cell):
    return cell if isinstance(cell, str) else cell.text


def test_each_point_has_its_name_and_its_interval():
    share = Axis("kept", form="share")
    series = [
        Points("supported", [0.5, 0.5], [-0.3, -1.0], ["wide", "deep"]),
        Lines("", [0.5, 0.5], [-0.6, 0.0]),
        Lines("", [0.5, 0.5], [-1.4, -0.6]),
        Points("inferior", [0.1], [-4.0], ["small"]),
    ]
    rows = table_of(Plot("pareto", "Pareto", share, Axis("delta"), series, "1.")).rows
    assert [[text(cell) for cell in row] for row in rows] == [
        ["wide", "supported", "50.0 %", "-0.300", "-0.600", "0"],
        ["deep", "supported", "50.0 %", "-1", "-1.40", "-0.600"],
        ["small", "inferior", "10.0 %", "-4", "", ""],
    ]


@pytest.mark.parametrize(
    ("low", "high", "form", "expected"),
    [(0.5, 1.5, "count", "1"), (0.5, 4.5, "count", "1 – 4"), (0.5, 1.5, "number", "0.500 – 1.50")],
)
def test_a_bin_of_counts_names_them(low, high, form, expected):
    assert bin_of(low, high, Axis("k@90", form=form)) == expected


def test_the_table_of_a_histogram_names_its_bins():
    plot = Plot(
        "use", "Use", Axis("k@90", form="count"), Axis("modules"), [Histogram("", [0.5, 1.5], [3])], "1."
    )
    assert [[text(cell) for cell in row] for row in table_of(plot).rows] == [["1", "3"]]
