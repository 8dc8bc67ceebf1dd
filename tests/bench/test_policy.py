"""The policy, in counts. The boundary cases are those that a reader would argue about."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from bench_sample import REPORT, SEEDS, bench, config, pairs, three_seeds, variant_measures
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gradience.bench.plan import plan_variants
from gradience.bench.verdict.assemble import measured
from gradience.bench.verdict.facts import gate_passed, is_ahead
from gradience.bench.verdict.grade import (
    GradeFacts,
    SeedOutcome,
    grade,
    lost_already,
    overall,
    passes,
    short_of_a,
    verdict_over_seeds,
)
from gradience.files.records import pack
from gradience.reports.base.graded import Bounds
from gradience.reports.bench import Bench
from gradience.reports.bench_plan import Policy


@given(n=st.integers(1, 5000), net_loss=st.integers(-5000, 5000), k=st.integers(0, 1000))
def test_the_rule_is_the_exact_comparison_of_shares(n, net_loss, k):
    tolerance = Fraction(k, 1000)
    assert passes(n, net_loss, tolerance) == (Fraction(-net_loss, n) >= -tolerance)


def counts(*net, n=200, seeds=SEEDS):
    """Outcomes with so many examples more correct than with the probe; a text in place of a number is a status."""
    return [
        SeedOutcome(seed, gained, why="reason") if isinstance(gained, str)
        else SeedOutcome(seed, n=n, only_probe=max(0, -gained), only_variant=max(0, gained))
        for seed, gained in zip(seeds, net, strict=False)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("net", "status", "said"),
    [
        ((-5, 0, 2), "PASS", "3 of 3 seeds pass, worst Δ −2.50 points"),
        ((-5, -5, -5), "PASS", "3 of 3"),
        ((-6, 0, 2), "FAIL", "2 of 3 seeds pass (66.7 %; 67 % needed)"),
        (
            (-6, 0, 2),
            "FAIL",
            "seed 42: 6 fewer correct than the probe; at most 5 are allowed",
        ),
        ((-7, -9, -8), "FAIL", "seed 123: 9 fewer correct than the probe"),
        ((0, 2), "FAIL", "seed 456: no result, counted as failed"),
        ((0, 2, "ERROR"), "FAIL", "seed 456: no result (reason), counted as failed"),
        ((0, 2, "UNDERTRAINED"), "INCONCLUSIVE", "seed 456: UNDERTRAINED (reason), no evidence"),
        (
            (0, -9, "UNDERTRAINED"),
            "INCONCLUSIVE",
            "cannot pass, even if all other seeds were perfect: 2 of 3 seeds pass",
        ),
        (
            (0, "ERROR", "UNDERTRAINED"),
            "INCONCLUSIVE",
            "cannot pass, even if all other seeds were perfect: 2 of 3 seeds pass",
        ),
        ((0, 0, "SKIPPED"), "INCONCLUSIVE", "seed 456: SKIPPED"),
        ((-6, -6, 0), "FAIL", "1 of 3 seeds passes (33.3 %; 67 % needed)"),
        (("SKIPPED",) * 3, "SKIPPED", "reason"),
        (("ERROR",) * 3, "FAIL", "0 of 3 seeds pass (0 %; 67 % needed)"),
    ],
    ids=str,
)
def test_three_seeds(net, status, said):
    verdict = verdict_over_seeds(counts(*net), SEEDS, Policy())
    assert verdict.status == status
    assert said in "; ".join(verdict.reasons)


def test_two_of_three_is_enough_only_where_two_thirds_are_required_and_the_floor_is_wider():
    lenient = Policy(pass_rate="2/3", floor="0.05")
    assert verdict_over_seeds(counts(-6, 0, 0), SEEDS, lenient).status == "PASS"
    assert verdict_over_seeds(counts(-11, 0, 0), SEEDS, lenient).status == "FAIL"
    assert verdict_over_seeds(counts(-6, 0, 0), SEEDS, Policy(floor="0.05")).status == "FAIL"


def test_a_failed_run_is_not_dropped_even_where_enough_others_pass():
    """Three of four seeds are 75 %, but nobody has seen that the fourth keeps the floor."""
    seeds = (1, 2, 3, 4)
    verdict = verdict_over_seeds(counts(0, 0, 0, "ERROR", seeds=seeds), seeds, Policy())
    assert verdict.status == "FAIL"
    assert verdict.reasons[0] == "seed 4 has no result, so the floor of 2.5 % cannot be checked"


@given(net=st.lists(st.integers(-60, 60), min_size=1, max_size=6), more=st.integers(0, 60))
def test_a_better_seed_never_turns_a_pass_into_a_fail(net, more):
    seeds = tuple(range(len(net)))
    if verdict_over_seeds(counts(*net, seeds=seeds), seeds, Policy()).status == "PASS":
        better = [net[0] + more, *net[1:]]
        assert verdict_over_seeds(counts(*better, seeds=seeds), seeds, Policy()).status == "PASS"


def test_the_gate_is_exact_and_inclusive():
    assert gate_passed(150, 200, Fraction("0.75"))
    assert not gate_passed(149, 200, Fraction("0.75"))
    assert not gate_passed(0, 0, Fraction(0))


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["FAIL", "PASS", "SKIPPED"], "PASS"),
        (["PASS", "ERROR"], "ERROR"),
        (["FAIL", "INCONCLUSIVE"], "FAIL"),
        (["UNDERTRAINED"] * 2, "UNDERTRAINED"),
        (["SKIPPED", "INCONCLUSIVE"], "INCONCLUSIVE"),
        ([], "SKIPPED"),
    ],
    ids=str,
)
def test_one_status_for_a_run(statuses, expected):
    assert overall(statuses) == expected


@pytest.mark.parametrize("text", ["0.025", "1/40", 0.025, Fraction(1, 40), "25e-3"], ids=repr)
def test_thresholds_are_what_was_written(text):
    assert Policy(tolerance=text).tolerance == Fraction(1, 40)
    assert Policy(tolerance=text).model_dump(mode="json")["tolerance"] == "0.025"
    assert Policy.model_validate_json(Policy(pass_rate="2/3").model_dump_json()).pass_rate == Fraction(2, 3)


@pytest.mark.parametrize(
    "text", ["1e9999999999", "1/0", "x", True, None, float("nan"), -0.1, 2, [1]], ids=repr
)
def test_other_thresholds_are_refused(text):
    with pytest.raises(ValueError, match="tolerance"):
        Policy(tolerance=text)


# ---------------------------------------------------------------- stopped early


@given(
    seen=st.lists(st.integers(-9, 9), max_size=3),
    rest=st.lists(st.integers(-9, 9), min_size=3, max_size=3),
    rate=st.sampled_from(["0", "0.5", "0.67", "1"]),
    floor=st.sampled_from(["0.02", "0.025", "0.04"]),
)
def test_stopping_is_exact(seen, rest, rate, floor):
    """What is lost already fails whatever comes; what is not passes if the rest is perfect."""
    policy = Policy(pass_rate=Fraction(rate), floor=Fraction(floor))
    open_seeds = [SeedOutcome(seed, "SKIPPED") for seed in SEEDS[len(seen) :]]
    lost = lost_already([*counts(*seen, seeds=SEEDS[: len(seen)]), *open_seeds], policy)
    perfect = verdict_over_seeds(counts(*seen, *[9] * len(open_seeds)), SEEDS, policy)
    anything = verdict_over_seeds(counts(*seen, *rest[len(seen) :]), SEEDS, policy)
    assert bool(lost) == (perfect.status == "FAIL")
    assert not (lost and anything.status == "PASS")


@pytest.mark.parametrize(
    ("correct", "above", "ahead"),
    [(100, "0", False), (101, "0", True), (104, "0.02", False), (105, "0.02", True)],
)
def test_a_probe_is_ahead_of_its_base_by_more_than_the_share(correct, above, ahead):
    assert is_ahead(correct, 100, 200, Fraction(above)) == ahead


# ---------------------------------------------------------------- The grade: a total function, the first


MARGIN = Fraction("0.025")


def bounds(low: float, high: float, p_value: float | None = None) -> Bounds:
    shown = low > -0.025
    return Bounds(low=low, high=high, p_value=(0.01 if shown else 0.2) if p_value is None else p_value)


def facts(**changes: Any) -> GradeFacts:
    """A variant that deserves an A, with changes."""
    good = GradeFacts(
        passes=True, margin=MARGIN, seeds=3, these_runs=bounds(-0.010, 0.008), next_training=bounds(-0.013, 0.011),
        adjusted_p=0.02, family=2,
    )  # fmt: skip
    return replace(good, **changes)


ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "invalid": ("X", {"faults": ("not seeded", "one engine")}, "invalid: not seeded; one engine"),
    "inferior": (
        "D",
        {"these_runs": bounds(-0.06, -0.026)},
        "accuracy is at least 2.60 points lower (95 % confidence, margin 2.5 points)",
    ),
    "inferior although it passes": ("D", {"these_runs": bounds(-0.06, -0.0251)}, "worse"),
    "invalid goes before inferior": ("X", {"faults": ("not seeded",), "these_runs": bounds(-0.06, -0.03)}, "seeded"),
    "upper bound at the margin exactly is not inferior": (
        "C", {"these_runs": bounds(-0.06, -0.025), "next_training": bounds(-0.07, -0.02)}, "policy",
    ),
    "shown for the next training": (
        "A", {}, "shown for the next training: accuracy is at most 1.30 points lower, if Δ is normally distributed",
    ),
    "better in the next training": ("A", {"next_training": bounds(0.004, 0.02)}, "at least 0.40 points higher"),
    "the next training is not shown": (
        "B",
        {"next_training": bounds(-0.031, 0.02), "adjusted_p": 0.2},
        "may be up to 3.10 points lower, if Δ is normally distributed across trainings",
    ),
    "the next training is not shown after Holm": ("B", {"adjusted_p": 0.051}, "after adjustment for 2 claims"),
    "these runs are not shown after Holm": (
        "C", {"adjusted_p_these_runs": 0.051}, "inconclusive after adjustment for 2 claims",
    ),
    "two seeds": ("B", {"seeds": 2}, "not A: 2 seeds (3 or more needed)"),
    "one seed": ("B", {"seeds": 1, "next_training": None, "adjusted_p": None}, "not A: 1 seed (3"),
    "something else stands in the way": ("B", {"obstacles": ("not verified",)}, "not A: not verified"),
    "passes and not shown": (
        "C",
        {"these_runs": bounds(-0.028, 0.01), "next_training": bounds(-0.03, 0.012), "adjusted_p": 0.2},
        "inconclusive, and passes the policy: accuracy may be up to 2.80 points lower",
    ),
    "lower bound at the margin exactly is not shown": (
        "C", {"these_runs": bounds(-0.025, 0.01), "next_training": bounds(-0.026, 0.02)}, "inconclusive",
    ),
    "fails, and neither is shown": ("C", {"passes": False, "these_runs": bounds(-0.05, -0.01)}, "fails the policy"),
    "fails, statistically non-inferior": ("C", {"passes": False}, "non-inferior in these runs, but fails the policy"),
    "answers are not in the file": (
        "C",
        {"these_runs": None, "next_training": None, "adjusted_p": None},
        "per-example answers are missing",
    ),
    "a step below the stop": ("C", {"untested": "rank 4"}, "not tested: the sequence stopped at rank 4"),
    "a step below the stop that is inferior": (
        "D", {"untested": "rank 4", "these_runs": bounds(-0.09, -0.05)}, "worse",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_worked_example(row):
    expected, changes, words = ROWS[row]
    result = grade(facts(**changes))
    assert result.grade == expected
    assert words in result.reason
    assert "\n" not in result.reason


differences = st.floats(-0.2, 0.2)
intervals = st.none() | st.builds(
    lambda a, b, p: bounds(min(a, b), max(a, b), p), differences, differences, st.floats(0, 1)
)
any_facts = st.builds(
    GradeFacts,
    faults=st.sampled_from([(), ("not seeded",)]), obstacles=st.sampled_from([(), ("not verified",)]),
    passes=st.booleans(), margin=st.sampled_from([Fraction("0.01"), MARGIN]), these_runs=intervals,
    next_training=intervals,
    adjusted_p=st.none() | st.floats(0, 1), family=st.integers(1, 9), untested=st.sampled_from(["", "rank 8"]),
    seeds=st.integers(0, 6),
)  # fmt: skip


@given(any_facts)
def test_every_variant_has_one_grade_and_the_first_that_matches(some):
    """Each grade's own condition, in the order of the list; whatever the policy says, C remains."""
    letter, reason = grade(some)
    f, r, m = some.these_runs, some.next_training, some.margin
    is_d = f is not None and Fraction(str(f.high)) < -m
    is_b = some.passes and not some.untested and f is not None and Fraction(str(f.low)) > -m
    is_a = (
        is_b and some.seeds >= 3 and not some.obstacles
        and r is not None and Fraction(str(r.low)) > -m
        and some.adjusted_p is not None and Fraction(str(some.adjusted_p)) <= Fraction(1, 20)
    )  # fmt: skip
    expected = "X" if some.faults else "D" if is_d else "A" if is_a else "B" if is_b else "C"
    assert (letter, bool(reason)) == (expected, True)
    if letter == "A":
        assert not short_of_a(some)
    if letter == "B":
        assert short_of_a(some)


# ---------------------------------------------------------------- From what a seed yielded to bench.json


def test_a_seed_round_trips_and_has_a_status():
    for run in three_seeds():
        assert Bench.model_validate_json(run.to_json()) == run
        assert run.status == "PASS"
    first = three_seeds()[0]
    median = first.variant("uniform_median")
    assert median.delta_exact == "-5/200"
    assert median.status == "PASS"  # exactly at the bound
    assert first.variant("per_layer").delta == 0.035
    assert first.variant(first.best).reduction == max(
        v.reduction for v in first.variants if v.same_as is None
    )


def test_another_number_of_parameters_than_planned_is_an_error():
    """The original project's per_layer was never what its report said: 7 of 7 stored runs."""
    planned = next(v for v in plan_variants(REPORT, config(), 42) if v.name == "per_layer")
    counted = pairs(200, 57, 0, 0)
    wrong = variant_measures(planned, 42, counted, lora_params=planned.lora_params + 1536)
    result = measured(planned, wrong, counted, config().policy)
    assert result.status == "ERROR"
    assert "LoRA parameters; planned: " in result.reasons[0]


def test_counts_that_disagree_are_no_artifact():
    good = bench(42).variants[0].model_dump(by_alias=True)
    for change in (
        {"measures": {**good["measures"], "correct": 56}},
        {"measures": {**good["measures"], "score": 0.5}},
        {"measures": {**good["measures"], "correct_examples": pack([True] * 200)}},
    ):
        with pytest.raises(ValidationError):
            type(bench(42).variants[0]).model_validate(good | change)
