"""The predicted accuracy drop: its constants are those of the kept cells, and it says where it was tested."""

import sys
from pathlib import Path

import numpy as np
import pytest

from gradience.reports.audit import HYPOTHESIS
from gradience.statistics import predicted_drop
from gradience.statistics.predicted_drop import MARGIN, outside, points

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import predicted_drop as benchmark

INSIDE = {"tokens": 22, "rows": 256, "model_type": "llama"}


@pytest.fixture(scope="module")
def model():
    return benchmark.fitted(benchmark.kept_rows())


def test_the_constants_are_fitted_on_the_kept_cells(model):
    fitted = [model.a, model.b, model.factor]
    assert fitted == pytest.approx([predicted_drop.A, predicted_drop.B, predicted_drop.UPPER], rel=1e-3)


@pytest.mark.parametrize("accuracy", [None, 1.0, 0.4])
def test_points_are_the_lost_share_times_the_accuracy(model, accuracy):
    for kl in np.geomspace(1e-6, 10, 9):
        expected = [100 * (accuracy or 1) * model.share(kl, times) for times in (1, model.factor)]
        assert points(kl, accuracy) == pytest.approx(expected, rel=5e-3)
    assert points(0.0) == (0.0, 0.0)


def test_every_recommended_size_of_the_kept_cells_holds():
    cells = benchmark.kept_rows()
    for case in {(row["task"], row["seed"], row["kind"]) for row in cells}:
        pick = benchmark.recommended(
            [row for row in cells if (row["task"], row["seed"], row["kind"]) == case]
        )
        assert benchmark.holds(pick)
        kl = pick["predicted_kl"] * pick["tokens"] / pick["n"]
        assert points(kl, pick["probe_correct"] / pick["n"])[1] <= MARGIN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, ""),
        ({"tokens": 61}, "61 tokens"),
        ({"rows": 199}, "199 rows that predict"),
        ({"model_type": "gemma3"}, "of type gemma3"),
        ({"model_type": ""}, "of type unknown"),
        ({"routing": "2 of 8 experts"}, "2 of 8 experts"),
    ],
)
def test_what_was_not_tested_is_said(change, said):
    reason = outside(**{**INSIDE, **change})
    assert said in reason
    assert bool(said) == bool(reason)


def test_what_the_audits_ranks_were_worth_is_what_the_kept_runs_show(capsys):
    benchmark.advised(benchmark.kept_advice())
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "uniform_median: 8 of 8 hold, median +2.0 octaves",
        "uniform_p90: saves nothing in 5",
        "per_layer: 8 of 8 hold, median +2.6 octaves",
    ]
    words = "within 2.5 points, but 4 and 6 times larger than needed; p90 saved nothing in 5 of 5"
    assert words in HYPOTHESIS
