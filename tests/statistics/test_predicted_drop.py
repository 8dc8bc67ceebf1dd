"""The predicted accuracy drop: its fit on the kept cells, and what the audit's ranks were worth there."""

import sys
from pathlib import Path

import pytest

from gradience.reports.audit import MEASURED_WORTH

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import predicted_drop as benchmark


@pytest.fixture(scope="module")
def model():
    return benchmark.fitted(benchmark.kept_rows())


def test_the_fit_is_the_one_that_was_written_down_before_the_test(model):
    assert [model.a, model.b, model.factor] == pytest.approx([0.6637, 0.5903, 2.143], rel=1e-3)


def test_every_recommended_size_of_the_kept_cells_holds(model):
    cells = benchmark.kept_rows()
    for case in {(row["task"], row["seed"], row["kind"]) for row in cells}:
        pick = benchmark.recommended(
            model, [row for row in cells if (row["task"], row["seed"], row["kind"]) == case]
        )
        assert benchmark.holds(pick)


def test_what_the_audits_ranks_were_worth_is_what_the_kept_runs_show(capsys):
    benchmark.advised(benchmark.kept_advice())
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "uniform_median: 8 of 8 hold, median +2.0 octaves",
        "uniform_p90: saves nothing in 5",
        "per_layer: 8 of 8 hold, median +2.6 octaves",
    ]
    words = "within 2.5 points, but had 4 to 8 times the parameters needed"
    assert words in MEASURED_WORTH
