"""The predicted accuracy drop: its fit on the kept cells, and what the audit's ranks were worth there."""

import sys
from pathlib import Path
from statistics import median

import pytest

from gradience.reports.audit import MEASURED_WORTH

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import predicted_drop as benchmark

RESULTS = Path(benchmark.__file__).parent / "results" / "predicted_drop"


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


def test_the_sentence_under_an_audit_is_what_the_kept_and_new_cells_show():
    rows = [*benchmark.kept_advice(), *filter(benchmark.inside_gate, benchmark.new_rows(RESULTS))]
    same_answer = ("larger", 3)  # the probe answers B to every question, so it cannot lose
    advice = {
        kind: [row for row in rows if row["kind"] == kind and (row["task"], row["seed"]) != same_answer]
        for kind in ("uniform_median", "per_layer")
    }
    times = {kind: 2 ** median(benchmark.octaves_above(row, rows) for row in advice[kind]) for kind in advice}
    assert {kind: round(factor) for kind, factor in times.items()} == {"uniform_median": 4, "per_layer": 6}
    for kind, points in (("uniform_median", (10.75, 8.0)), ("per_layer", (122 / 12, 104 / 12))):
        lost = [row for row in advice[kind] if not benchmark.holds(row)]
        assert len(advice[kind]) == 18
        assert [(row["task"], round(row["tokens"] / row["n"])) for row in lost] == [("shifted", 33)] * 2
        drops = [100 * (row["only_probe_correct"] - row["only_variant_correct"]) / row["n"] for row in lost]
        assert drops == pytest.approx(points)
    for words in ("16 of the 18 adapters", "with 4 to 6 times", "33 tokens, lost 8 to 11 points"):
        assert words in MEASURED_WORTH
