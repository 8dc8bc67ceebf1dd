"""The safety policy, in counts. The boundary cases are those that a reader would argue about."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.bench.verdict.policy import (
    SeedOutcome,
    gate_passed,
    is_ahead,
    lost_already,
    overall,
    passes,
    policy_notes,
    verdict_over_seeds,
)
from gradience.reports.bench_plan import Policy

SEEDS = (42, 123, 456)


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
            "seed 42: 6 fewer correct than the probe; allowed by the floor: 5 fewer (2.5 % of 200)",
        ),
        ((-7, -9, -8), "FAIL", "seed 123: 9 fewer correct than the probe"),
        ((0, 2), "FAIL", "seed 456: no result, counted as failed"),
        ((0, 2, "ERROR"), "FAIL", "seed 456: no result (reason), counted as failed"),
        ((0, 2, "UNDERTRAINED"), "INCONCLUSIVE", "seed 456: UNDERTRAINED (reason), no evidence"),
        (
            (0, -9, "UNDERTRAINED"),
            "INCONCLUSIVE",
            "cannot pass any more: even if all other seeds were perfect, 2 of 3 seeds pass",
        ),
        (
            (0, "ERROR", "UNDERTRAINED"),
            "INCONCLUSIVE",
            "cannot pass any more: even if all other seeds were perfect, 2 of 3 seeds pass",
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


def test_outcomes_of_seeds_that_were_not_planned_or_of_one_seed_twice_are_a_bug():
    for outcomes in (counts(0, 0, seeds=(1, 1)), counts(0, seeds=(9,))):
        with pytest.raises(ValueError, match="one outcome per planned seed"):
            verdict_over_seeds(outcomes, (1, 2), Policy())


def test_the_gate_is_exact_and_inclusive():
    assert gate_passed(150, 200, Fraction("0.75"))
    assert not gate_passed(149, 200, Fraction("0.75"))
    assert not gate_passed(0, 0, Fraction(0))


def test_the_policy_in_words():
    notes = policy_notes(Policy(), seeds=3, n=1319)
    assert notes[0] == "2.5 % of 1,319 examples: at most 32 fewer correct than the probe"
    assert notes[1] == "at least 67 % of 3 seeds means 3 of 3 (2 of 3 is 66.7 %)"
    assert notes[2].startswith("the pass rate has no effect")
    assert policy_notes(Policy(floor="0.05"), seeds=1) == (
        "at least 67 % of 1 seed means 1 of 1 (0 of 1 is 0 %)",
    )


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
