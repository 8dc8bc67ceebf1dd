"""The faces of Bench: pure functions of the artifacts, compared with committed files."""

from fractions import Fraction
from pathlib import Path

import pytest
from bench_sample import LARGE, bench, config, ladder, probe_of, three_seeds
from golden import assert_golden

from gradience.bench.verdict.aggregate import aggregate
from gradience.bench.verdict.evidence import graded_seed
from gradience.reports.base.exact import exact_percent
from gradience.reports.base.numbers import round_up
from gradience.reports.bench import counted_points, p_value, points
from gradience.reports.plots.plot import plots_of

GOLDEN = Path(__file__).parent / "golden"
ALL_CONTROLS = {"controls": ["per_layer_shuffled", "random_directions", "rewrite_control"]}

SEEDS = {
    "pass": lambda: three_seeds()[0],
    "smoke": lambda: bench(42, asked=config(run_type="smoke")),
    "undertrained": lambda: bench(42, correct=10),
    "alone": lambda: graded_seed(ladder((20, 15), (40, 30), (90, 40), (5, 5), seeds=[42])[0]),
    "error": lambda: bench(42, {"per_layer": "OutOfMemoryError: CUDA out of memory"}, n=1319, correct=376),
    "fail": lambda: bench(
        42,
        {"uniform_r8": (60, 21), "random_directions": (300, 1)},
        n=1319,
        correct=376,
        asked=config(
            compression=ALL_CONTROLS | {"variants": ["uniform_r8", "per_layer"], "arms": ["truncate"]}
        ),
    ),
}


TOGETHER = {
    "aggregate_pass": lambda: aggregate(three_seeds(), [f"run{seed}/bench.json" for seed in (42, 123, 456)]),
    "aggregate_ladder": lambda: aggregate(
        ladder((20, 15), (40, 30), (75, 40), (5, 5)), ["a", "b", "c"], records_verified=True
    ),
    "aggregate_missing": lambda: aggregate(three_seeds()[:2], ["run42/bench.json", "run123/bench.json"]),
    "aggregate_inconclusive": lambda: aggregate([bench(42, correct=10), *three_seeds()[1:]], ["a", "b", "c"]),
}


@pytest.mark.parametrize(("name", "make"), (SEEDS | TOGETHER).items(), ids=SEEDS | TOGETHER)
def test_golden_texts(name, make):
    report = make()
    assert_golden(GOLDEN / f"bench_{name}.txt", report.to_text())
    assert_golden(GOLDEN / f"bench_{name}.md", report.to_markdown())


def test_the_screen_says_why_a_control_has_no_result():
    seed_run = three_seeds()[0]
    (shuffled, *_) = [one for one in seed_run.variants if one.arm == "control"]
    reason = "impossible: too few modules of one shape differ in rank"
    for status in ("SKIPPED", "ERROR"):
        unmeasured = shuffled.model_copy(update={"status": status, "reasons": (reason,), "delta": None})
        variants = tuple(unmeasured if one.name == shuffled.name else one for one in seed_run.variants)
        text = " ".join(seed_run.model_copy(update={"variants": variants}).to_text().split())
        assert f"· {shuffled.name}: {status}: {reason}" in text
    assert f"· {shuffled.name}" not in seed_run.to_text()


@pytest.mark.parametrize(
    ("floor", "meaning"),
    [
        ("0.025", "points (5 of 200 examples) on every planned seed."),
        (
            "0.05",
            "points (5 of 200 examples) on 3 of 3 planned seeds (67 %), and by at most 5 points on the others.",
        ),
    ],
)
def test_the_policy_in_counts(floor, meaning):
    seeds = three_seeds(asked=config(policy={"floor": floor}))
    for report in (seeds[0], aggregate(seeds)):
        assert f"accuracy drops by at most 2.5 {meaning}" in " ".join(report.to_text().split())


def test_head_parameters_are_not_counted_as_saved():
    """The original project's 61 % counted 592,130 parameters of the head in both numbers."""
    facts = {"correct": 57, "n": 200, "gate": "0.1", "other_params": 592_130}
    seeds = [seed.model_copy(update={"probe": probe_of(seed.seed, **facts)}) for seed in three_seeds()]
    together = aggregate(seeds)
    assert {row.other_params for row in together.seeds} == {592_130}
    for page in (seeds[0].to_markdown(), together.to_markdown()):
        assert "87.5 %" in page
        assert "without classifier heads" in page


@pytest.mark.parametrize(
    ("delta", "exact", "shown"),
    [
        (-0.025, "-5/200", "−2.50 (−5/200)"),
        (-33 / 1319, "-33/1319", "−2.50 (−33/1,319)"),
        (0.0, "0/200", "0.00 (0/200)"),
        (0.035, "7/200", "+3.50 (+7/200)"),
        (None, None, "–"),
    ],
)
def test_differences_show_the_counts(delta, exact, shown):
    assert counted_points(delta, exact) == shown


def test_figures_are_no_more_precise_than_they_are_true():
    assert points(-0.00001) == "0.00"
    assert exact_percent(Fraction(2, 3)) == "66.7 %"
    assert [p_value(value) for value in (None, 1e-9, 0.0123)] == ["–", "< 0.001", "0.012"]
    assert [round_up(number) for number in (7, 99, 101, 1063, 2400)] == [7, 99, 110, 1100, 2400]


def test_only_a_run_with_verified_records_and_controls_has_an_a():
    changes = {"random_directions": (1400, 10), "uniform_r4": (20, 15)}
    asked = config(
        compression={
            "variants": ["uniform_r4"],
            "arms": ["truncate"],
            "controls": ["random_directions", "rewrite_control"],
        }
    )
    runs = [
        bench(seed, {"uniform_r4.truncate": (20, 15)} | changes, asked=asked, **LARGE)
        for seed in (42, 123, 456)
    ]
    verified, unknown = (aggregate(runs, records_verified=known) for known in (True, False))
    for report, says in ((verified, True), (unknown, False)):
        for text in (report.to_text(), report.to_markdown()):
            assert (": A, shown for the next training" in " ".join(text.split())) == says
    without_controls = aggregate(ladder(*[(5, 5)] * 4), records_verified=True)
    assert ": B, shown for these adapters" in " ".join(without_controls.to_text().split())


def test_a_step_has_one_outcome_in_the_table_and_in_both_plots():
    report = aggregate(ladder((20, 15), (40, 30), (300, 20), (5, 5)), records_verified=True)
    rows = [line.split(" | ") for line in report.to_markdown().splitlines() if line.startswith("| `ladder.")]
    results = {row[0].strip("| `"): row[1] for row in rows}
    assert list(results.values()) == ["shown", "shown", "worse", "not tested"]
    forest, pareto = plots_of(report).values()
    named = {series.name: series.labels for series in pareto.series}
    assert "ladder.r8" in named["worse"]
    assert {"ladder.r32", "ladder.r16"} <= set(named["shown"])
    tones = dict(zip(forest.y.categories, (row.tone for row in forest.series[0].rows), strict=True))
    assert [tones[name] for name in results] == ["good", "good", "bad", "dim"]
    assert "Worse: ladder.r8." in forest.sentence
