"""The table behind a plot has every figure of it, in words of its axes."""

import pytest

from gradience.report.plots import palette
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
    Series,
)
from gradience.reports.base import html, markdown
from gradience.reports.base.blocks import Inline, Table, spans

STEPS = Axis("step")
SHARE = Axis("energy kept", form="share")
KINDS = Axis("module type", scale="categories", categories=("q_proj", "v_proj"))


def figures(x: Axis, y: Axis, *series: Series) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the table, as plain text."""
    table = Plot("a-plot", "A plot", x, y, series, "Something is seen.").table()
    assert isinstance(table, Table)
    titles = [plain(column.title) for column in table.columns]
    rows = [[plain(cell) for cell in row] for row in table.rows]
    assert all(len(row) <= len(titles) for row in rows)
    assert markdown.render([table])
    assert html.render([table])
    return titles, rows


def plain(text: Inline) -> str:
    return "".join(span.text for span in spans(text))


def test_series_at_the_same_places_stand_side_by_side() -> None:
    a = Lines("loss", (0, 10), (2.5, None))
    b = Lines("eval loss", (0, 10), (2.75, 1.5))
    assert figures(STEPS, Axis("loss"), a, b) == (
        ["step", "loss", "eval loss"],
        [["0", "2.50", "2.75"], ["10", "–", "1.50"]],
    )


def test_series_at_places_of_their_own_are_rows() -> None:
    a = Lines("loss", (0, 10), (2.5, 2.25))
    b = Points("eval loss", (10,), (1.5,))
    assert figures(STEPS, Axis("loss"), a, b) == (
        ["series", "step", "loss"],
        [["loss", "0", "2.50"], ["loss", "10", "2.25"], ["eval loss", "10", "1.50"]],
    )


def test_a_band_has_both_ends() -> None:
    line = Lines("median", (1, 2), (0.5, 0.9), low=(0.25, 0.75), high=(0.75, 1.0))
    assert figures(Axis("rank kept"), SHARE, line) == (
        ["rank kept", "median", "median, from", "median, to"],
        [["1", "50.0 %", "25.0 %", "75.0 %"], ["2", "90.0 %", "75.0 %", "100 %"]],
    )


@pytest.mark.parametrize("lying", [False, True], ids=["upright", "lying"])
def test_bars_have_the_name_of_their_category(lying: bool) -> None:
    bars = BarsOf("bytes", (0, 1), (298500, 812), lying=lying)
    size = Axis("size", form="bytes")
    x, y = (size, KINDS) if lying else (KINDS, size)
    assert figures(x, y, bars) == (["module type", "bytes"], [["q_proj", "298.5 kB"], ["v_proj", "812 B"]])


def test_a_histogram_has_its_edges() -> None:
    counted = Histogram("modules", (0, 0.5, 1), (3, 1200))
    assert figures(Axis("utilization", form="share"), Axis("modules"), counted) == (
        ["utilization", "modules"],
        [["0 % – 50.0 %", "3"], ["50.0 % – 100 %", "1,200"]],
    )


def test_a_forest_has_open_ends_and_the_points_on_its_rows() -> None:
    rows = (Interval("per_layer", -0.5, -1.25, None), Interval("uniform_p90", 0.25, -0.5, 1.0))
    titles, shown = figures(
        Axis("difference", "points"),
        Axis("variant"),
        Intervals("mean", rows),
        Points("seed 42", (-0.75,), (0,)),
    )
    assert titles == ["variant", "series", "difference (points)", "from", "to"]
    assert shown == [
        ["per_layer", "mean", "-0.500", "-1.25", "–"],
        ["uniform_p90", "mean", "0.250", "-0.500", "1"],
        ["per_layer", "seed 42", "-0.750"],
    ]


def test_a_heat_map_has_each_cell() -> None:
    layers = Axis("layer", scale="categories", categories=("0", "1"))
    image = Image("stable rank", ((1.5, None), (2.5, 3.5)), color=Axis("stable rank"))
    assert figures(layers, KINDS, image) == (
        ["module type", "0", "1"],
        [["q_proj", "1.50", "–"], ["v_proj", "2.50", "3.50"]],
    )


def test_colours_of_a_scale_lie_between_its_steps() -> None:
    assert palette.shade_color(0.5) == palette.SHADES[4]
    assert palette.shade_color(-1) == palette.SHADES[0]
    assert palette.shade_color(1 / 16) == "#461768"
    assert len({palette.series_color("", None, place) for place in range(8)}) == 8
