"""Evidence on the screen: intervals drawn to scale, grades in words, and nothing said of files that have none."""

from __future__ import annotations

from fractions import Fraction

import pytest
from bench_sample import LARGE, SEEDS, bench, config, ladder

from gradience.bench.verdict.aggregate import aggregate
from gradience.reports.base.blocks import spans
from gradience.reports.base.graded import Bounds, PooledEvidence
from gradience.reports.bench import drawing, p_value, round_up

MARGIN = Fraction("0.025")


def pooled(
    delta: float, these: tuple[float, float], new: tuple[float, float] | None = None
) -> PooledEvidence:
    def bounds(ends: tuple[float, float]) -> Bounds:
        return Bounds(low=ends[0], high=ends[1], p_value=0.1)

    return PooledEvidence(
        runs=3, examples=200, margin=MARGIN, delta=delta, these_runs=bounds(these),
        over_trainings=bounds(new) if new else None, next_training=None, discordance=0.1, run_spread=0.0,
    )  # fmt: skip


def lines(*rows: PooledEvidence) -> list[str]:
    picture = drawing([(f"v{place}", row) for place, row in enumerate(rows)], MARGIN)
    return ["".join(span.text for span in spans(line)) for line in picture.lines]


def test_all_intervals_stand_on_one_scale() -> None:
    """What is equal stands in one column, and the marks below the labels of the ruler."""
    ruler, *drawn = lines(
        pooled(0.0, (-0.01, 0.01)), pooled(-0.05, (-0.06, -0.04)), pooled(0.0, (-0.04, 0.04))
    )
    assert drawn[0].index("●") == drawn[2].index("●") == ruler.index("0", ruler.index("5"))
    assert drawn[0].index("┊") == ruler.index("5")
    assert drawn[1].index("●") < ruler.index("−") < drawn[0].index("━")


def test_the_mean_over_trainings_is_drawn_lighter_around_these_runs() -> None:
    _, drawn = lines(pooled(0.0, (-0.01, 0.01), (-0.02, 0.02)))
    left = drawn.split("●")[0].strip().removeprefix("v0").lstrip("┊ ")
    assert left.startswith("─")
    assert left.endswith("━")
    assert set(left) == {"─", "━"}


def test_what_lies_far_off_is_an_arrow() -> None:
    _, drawn, near = lines(pooled(-0.5, (-0.6, -0.4)), pooled(0.0, (-0.01, 0.01)))
    assert "●" not in drawn
    assert drawn.split()[1].startswith("◂")
    assert "●" in near


@pytest.mark.parametrize("margin", ["0", "0.001", "0.025", "0.5", "1"])
def test_every_margin_has_a_scale_with_its_marks(margin: str) -> None:
    picture = drawing([("v", pooled(0.2, (0.1, 0.3)))], Fraction(margin))
    ruler, line = (spans(text)[0].text for text in picture.lines)
    assert ruler.endswith("0")
    assert "│" in line


def test_small_p_values_are_not_spelled_out() -> None:
    assert [p_value(value) for value in (None, 1e-9, 0.0123)] == ["–", "< 0.001", "0.012"]
    assert [round_up(number) for number in (7, 99, 101, 1063, 2400)] == [7, 99, 110, 1100, 2400]


def test_only_a_run_that_meets_the_conditions_of_a_claim_is_called_certified() -> None:
    changes = {"random_directions": (1400, 10), "uniform_r4": (20, 15)}
    asked = config(
        compression={
            "variants": ["uniform_r4"],
            "arms": ["truncate"],
            "controls": ["random_directions", "rewrite_control"],
        }
    )
    runs = [bench(seed, {"uniform_r4.truncate": (20, 15)} | changes, asked=asked, **LARGE) for seed in SEEDS]
    verified, unknown = (aggregate(runs, records_verified=known) for known in (True, False))
    assert verified.conditions_met
    for report, says in ((verified, True), (unknown, False)):
        for text in (report.to_text(), report.to_markdown()):
            assert ("(grade A, certified)" in " ".join(text.split())) == says
    without_controls = aggregate(ladder(*[(5, 5)] * 4), records_verified=True)
    assert "(grade B, shown for these runs)" in " ".join(without_controls.to_text().split())
