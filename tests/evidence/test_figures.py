"""The figures of two logs, against scipy, a count by hand and the definitions of the grades."""

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from log_files import counts, table
from raising import raises

from gradience import compare_logs
from gradience.errors import InputError, UsageError
from gradience.statistics.paired import tango
from gradience.statistics.power import Assumptions
from gradience.statistics.table import PairedTable


def test_a_table_counted_by_hand(tmp_path):
    """162 and 158 of 200 correct: 12 lost and 8 gained are −4 of 200, −2 points."""
    report = compare_logs(*counts(tmp_path, 150, 12, 8, 30))
    assert (report.n, report.delta, report.n_lost, report.n_gained) == (200, -0.02, 12, 8)
    assert (report.a.mean, report.b.mean) == (0.81, 0.79)
    assert (report.table.n11, report.table.n10, report.table.n01, report.table.n00) == (150, 12, 8, 30)
    assert report.table.mcnemar_p == pytest.approx(scipy.stats.binomtest(8, 20).pvalue)
    low, high = tango(PairedTable(n11=150, n10=12, n01=8, n00=30))
    assert (report.low, report.high) == pytest.approx((low, high))
    assert report.planning.variance == 0.1
    assert Assumptions(0.1).power(report.planning.examples_80, 0.025) == pytest.approx(0.8, abs=1e-3)
    assert Assumptions(0.1).power(200, report.planning.margin_80) == pytest.approx(0.8)


def test_scores_that_are_no_counts_against_scipy(tmp_path):
    draw = np.random.default_rng(7)
    a = draw.normal(size=400).round(6)
    b = (a + draw.normal(0.0, 0.5, size=400)).round(6)
    report = compare_logs(
        table(tmp_path / "a.csv", a), table(tmp_path / "b.csv", b), margin=0.1, lower_is_better=False
    )
    test = scipy.stats.ttest_rel(b, a)
    low, high = test.confidence_interval(0.95)
    assert (report.delta, report.low, report.high) == pytest.approx(((b - a).mean(), low, high))
    with_the_worst_once_more = np.append(b - a, (b - a).min())
    one_sided = scipy.stats.ttest_1samp(with_the_worst_once_more, -0.1, alternative="greater")
    assert report.bounds.p_value == pytest.approx(max(one_sided.pvalue, 0.99**400))
    assert report.bounds.low == pytest.approx(one_sided.confidence_interval(0.95).low)
    assert report.table is None
    variance = (b - a).var(ddof=1)
    assert report.planning.variance == pytest.approx(variance)
    assert report.planning.margin_80 is None  # below the floor
    assert report.planning.examples_80 == 1000  # the floor


def test_scores_that_are_no_counts_have_no_grade_below_1000_examples(tmp_path):
    a = np.random.default_rng(7).normal(size=120).round(6)
    report = compare_logs(
        table(tmp_path / "a.csv", a), table(tmp_path / "b.csv", (a + 1e-3 * a).round(6)), margin=0.5
    )
    assert report.grade == "C"
    assert report.verdict.endswith("need 1,000 independent examples, and there are 120.")
    assert (report.planning.examples_80, report.planning.margin_80) == (1000, None)


def test_where_lower_is_better_the_same_difference_reads_the_other_way_round(tmp_path):
    """Losses, and the same with the sign turned: Δ and its interval turn, p, grade and power stay."""
    draw = np.random.default_rng(3)
    a = draw.gamma(2.0, size=80).round(6)
    b = (a + draw.normal(0.02, 0.1, size=80)).round(6)
    losses = table(tmp_path / "a.csv", a), table(tmp_path / "b.csv", b)
    gains = table(tmp_path / "c.csv", -a), table(tmp_path / "d.csv", -b)
    down = compare_logs(*losses, margin=0.05, lower_is_better=True)
    up = compare_logs(*gains, margin=0.05)
    assert (down.delta, down.low, down.high) == pytest.approx((-up.delta, -up.high, -up.low))
    assert (down.bounds.low, down.bounds.high) == pytest.approx((-up.bounds.high, -up.bounds.low))
    assert (down.grade, down.bounds.p_value) == (up.grade, pytest.approx(up.bounds.p_value))
    assert (
        (down.n_lost, down.n_gained) == (up.n_lost, up.n_gained) == (int((b > a).sum()), int((b < a).sum()))
    )
    assert down.planning.examples_80 == up.planning.examples_80


def test_errors_as_zeros_and_ones_count_as_correct_where_they_are_zero(tmp_path):
    report = compare_logs(*counts(tmp_path, 30, 8, 12, 150), margin=2.5, lower_is_better=True)
    same = compare_logs(*counts(tmp_path, 150, 12, 8, 30), margin=2.5)
    assert report.table == same.table
    assert (report.delta, report.low, report.high) == pytest.approx((0.02, -same.high, -same.low))
    assert report.bounds.p_value == same.bounds.p_value


@pytest.mark.parametrize(
    ("cells", "margin", "grade", "words"),
    [
        ((900, 10, 10, 80), 0.025, "B", "within the margin of 2.5 points"),
        ((150, 12, 8, 30), 0.025, "C", "a drop of up to 6.15 points cannot be ruled out"),
        ((700, 120, 20, 160), 0.025, "D", "(one-sided 95 % bound), more than the margin of 2.5 points"),
        ((700, 120, 20, 160), 0.5, "B", "within the margin of 50 points"),
        (
            (700, 10, 90, 200),
            0.025,
            "B",
            "not worse (one-sided 95 % bound, 1,000 examples); it is better by at",
        ),
    ],
    ids=["equal", "few", "worse", "worse-but-allowed", "better"],
)
def test_the_grade_is_where_the_bounds_lie_and_a_sentence_has_the_numbers(
    tmp_path, cells, margin, grade, words
):
    report = compare_logs(*counts(tmp_path, *cells), margin=100 * margin)
    bounds = tango(PairedTable(n11=cells[0], n10=cells[1], n01=cells[2], n00=cells[3]), 0.90)
    expected = "B" if bounds.low > -margin else "D" if bounds.high < -margin else "C"
    assert report.grade == expected == grade
    assert (report.bounds.p_value < 0.05) == (grade == "B")
    assert words in report.verdict


def test_equal_differences_show_nothing(tmp_path):
    """Student's interval of 60 equal differences has no width: no evidence for other examples."""
    a = [number / 7 + 1 for number in range(60)]
    report = compare_logs(table(tmp_path / "a.csv", a), table(tmp_path / "b.csv", a), margin=0.1)
    assert (report.grade, report.planning.variance) == ("C", None)
    assert any("no width" in note for note in report.notes)
    answers = [1, 0] * 500  # of counts Tango's interval has a width even where none differs
    same = compare_logs(table(tmp_path / "a.csv", answers), table(tmp_path / "c.csv", answers))
    assert (same.grade, same.n_lost, same.n_gained) == ("B", 0, 0)
    assert (same.planning.variance, same.planning.examples_80) == (0, 143)
    assert same.low < 0 < same.high


@pytest.mark.parametrize(
    ("scores", "options", "code"),
    [
        ([3.0, 4.0, 2.5], {}, "no-margin"),
        ([0.5, 0.25, 1.0], {"lower_is_better": True}, "no-margin"),
        ([0.5, 0.25, 1.0], {"margin": 0.0}, "bad-margin"),
        ([0.5, 0.25, 1.0], {"margin": 2.5}, "bad-margin"),
        ([3.0, 4.0, 2.5], {"margin": float("nan")}, "bad-margin"),
        ([1, 0, 1], {"margin": 0.025}, "bad-margin"),
    ],
)
def test_a_margin_must_mean_something(tmp_path, scores, options, code):
    a = table(tmp_path / "a.csv", scores)
    b = table(tmp_path / "b.csv", scores[::-1])
    with raises(UsageError, code):
        compare_logs(a, b, **options)


def test_a_margin_that_no_test_set_shows(tmp_path):
    scores = [0.5, 0.25] * 50
    a, b = table(tmp_path / "a.csv", scores), table(tmp_path / "b.csv", [*scores[1:], scores[0]])
    report = compare_logs(a, b, margin=1e-320)
    assert (report.grade, report.planning.examples_80) == ("C", None)


@pytest.mark.parametrize("score", [1e308, -1e101, 5e-324, 1e-101])
def test_scores_whose_squares_are_not_numbers_are_refused(tmp_path, score):
    good, bad = table(tmp_path / "a.csv", [0.5, 2.0, 0]), table(tmp_path / "b.csv", [0.5, score, 0])
    with pytest.raises(InputError, match="line 3"):
        compare_logs(good, bad, margin=0.1)


def test_flips_are_those_that_differ_most(tmp_path):
    a = table(tmp_path / "a.csv", [0.9, 0.8, 0.7, 0.6, 0.5], answer=["gold"] * 5, output=["x"] * 5)
    b = table(tmp_path / "b.csv", [0.9, 0.2, 0.6, 0.9, 0.6], answer=["gold"] * 5, output=["y"] * 5)
    report = compare_logs(a, b, flips=1)
    assert [(flip.id, flip.change, flip.answer_a) for flip in report.flips] == [
        ("q1", "lost", "x"),
        ("q3", "gained", "x"),
    ]
    assert (report.n_lost, report.n_gained) == (2, 2)
    assert compare_logs(a, b, flips=0).flips == ()


# ---------------------------------------------------------------- The scores in examples/evidence/


ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "minilm_reviews" / "everything.tar.xz"


@pytest.mark.parametrize(
    ("file", "variant"), [("probe.csv", "probe"), ("truncated.csv", "per_layer.truncate")]
)
def test_the_scores_are_those_of_the_kept_run(file, variant):
    with tarfile.open(KEPT) as archive:
        records = archive.extractfile(f"seed_42/{variant}/eval/answers.records.jsonl").read().splitlines()[1:]
    kept = {record["id"]: int(record["correct"]) for record in map(json.loads, records)}
    with (ROOT / "examples" / "evidence" / file).open(encoding="utf-8", newline="") as rows:
        assert {row["id"]: int(row["score"]) for row in csv.DictReader(rows)} == kept
