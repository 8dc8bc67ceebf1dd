"""Evidence beside the verdicts: pooled over seeds, adjusted, graded; and the ladder, tested from the top."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from bench_sample import LARGE, SEEDS, bench, config, ladder, named, three_seeds

from gradience.bench.verdict.aggregate import aggregate
from gradience.bench.verdict.evidence import graded_seed
from gradience.reports.bench import Bench, BenchAggregate, VariantEvidence
from gradience.statistics.paired import adjusted_p_values
from gradience.statistics.pooled import pool


def large(*changes: dict[str, tuple[int, int] | str], **more: Any) -> list[Bench]:
    """Three seeds of 2,000 examples each: enough to show something. changes: of each seed, or one for all."""
    of_seeds = changes * 3 if len(changes) == 1 else changes
    return [bench(seed, change, **(LARGE | more)) for seed, change in zip(SEEDS, of_seeds, strict=True)]


def evidence(report: BenchAggregate | Bench, name: str = "uniform_median") -> VariantEvidence:
    return named(report, name).evidence


def grades(report: BenchAggregate) -> dict[str, str | None]:
    return {variant.name: variant.evidence.grade for variant in report.variants if variant.evidence}


# ---------------------------------------------------------------- what is pooled


def test_the_bounds_are_those_of_the_answers_of_all_seeds():
    report = aggregate(three_seeds())
    rows = []
    for run in three_seeds():
        probe, variant = run.probe.answers(), run.variant("per_layer").measures.answers()
        rows.append([int(b) - int(a) for a, b in zip(probe, variant, strict=True)])
    pooled, shown = pool(rows), evidence(report, "per_layer").pooled
    assert (shown.runs, shown.examples) == (3, 200)
    assert shown.delta == pytest.approx((7 - 4 + 13) / 600)
    assert shown.discordance == pytest.approx((25 + 18 + 27) / 600)
    assert shown.these_runs.low == pytest.approx(pooled.interval("these-runs").low)
    assert shown.over_trainings.low == pytest.approx(pooled.interval("mean-over-trainings").low)
    assert shown.next_training.low == pytest.approx(pooled.interval("next-training").low)
    assert shown.these_runs.p_value == pytest.approx(pooled.p_value(0.025))


def test_a_single_seed_has_the_bounds_of_one_run_and_nothing_of_other_trainings():
    one = graded_seed(bench(42, {"per_layer": (9, 16)}, asked=config(seeds=[42])))
    shown = evidence(one, "per_layer")
    low, high = pool([[-1] * 9 + [1] * 16 + [0] * 175]).interval()
    assert (shown.pooled.these_runs.low, shown.pooled.these_runs.high) == (
        pytest.approx(low, abs=1e-6),
        pytest.approx(high, abs=1e-6),
    )
    assert shown.pooled.over_trainings is None
    assert shown.pooled.next_training is None
    assert (shown.grade, shown.family) == ("C", 6)
    assert "inconclusive after adjustment for 6 claims" in shown.reason


def test_a_seed_of_several_and_a_smoke_run_have_no_grade_of_their_own():
    for run in (bench(42), bench(42, asked=config(run_type="smoke", seeds=[42]))):
        assert {result.evidence for result in graded_seed(run).variants} == {None}


# ---------------------------------------------------------------- grades


def test_a_variant_that_is_as_good_on_enough_examples_is_certified():
    asked = config(compression={"controls": ["random_directions"]})
    changes = {"uniform_median": (30, 28), "random_directions": (900, 0)}
    report = aggregate(large(changes, asked=asked), records_verified=True)
    shown = evidence(report)
    assert shown.grade == "A", shown.reason
    assert shown.pooled.next_training.low > -0.025
    assert report.records_verified
    assert shown.next_grade is None


def test_an_a_needs_a_control_that_fails_and_a_gate():
    changes = {"uniform_median": (30, 28)}
    without = evidence(aggregate(large(changes), records_verified=True))
    assert without.grade == "B"
    assert "not A: no control that must fail was planned" in without.reason
    asked = config(compression={"controls": ["random_directions"]})
    seeds = large(changes | {"random_directions": (900, 0)}, asked=asked)
    for place, one in enumerate(seeds):
        gate = one.probe.gate.model_copy(update={"min_value": Fraction(0)})
        seeds[place] = one.model_copy(update={"probe": one.probe.model_copy(update={"gate": gate})})
    ungated = evidence(aggregate(seeds, records_verified=True))
    assert (ungated.grade, "not A: the probe had no quality gate" in ungated.reason) == ("B", True)


def test_every_arm_of_the_plan_counts_in_holms_family():
    """Six arms are planned, of which two are not made: they count as not shown."""
    report = aggregate(three_seeds())
    candidates = [variant for variant in report.variants if variant.is_candidate]
    shown = [variant.evidence.pooled for variant in candidates]
    p_values = [pooled.next_training.p_value if pooled else 1.0 for pooled in shown]
    of_these = [pooled.these_runs.p_value if pooled else 1.0 for pooled in shown]
    assert len(candidates) == 6
    adjusted = [[p for (p,) in adjusted_p_values([[p] for p in values])] for values in (p_values, of_these)]
    for variant, following, these in zip(candidates, *adjusted, strict=True):
        if variant.evidence.pooled is None:
            assert variant.evidence.adjusted_p is None
        else:
            assert variant.evidence.adjusted_p == pytest.approx(following)
            assert variant.evidence.adjusted_p_these_runs == pytest.approx(these)
            assert variant.evidence.family == 6


def test_a_fail_may_be_statistically_non_inferior():
    """One seed beyond the tolerance, and the three together far above the margin."""
    report = aggregate(
        large({"uniform_median": (90, 30)}, {"uniform_median": (30, 40)}, {"uniform_median": (30, 40)})
    )
    shown = evidence(report)
    assert named(report, "uniform_median").status == "FAIL"
    assert shown.grade == "C"
    assert shown.reason.startswith("non-inferior in these runs, but fails the policy")
    assert shown.next_grade is None


def undertrained() -> Sequence[Bench]:
    return [bench(42, correct=10), *three_seeds()[1:]]


def one_missing() -> Sequence[Bench]:
    return three_seeds()[:2]


def other_precision() -> Sequence[Bench]:
    first, *others = three_seeds()
    there = first.environment.model_copy(update={"dtype": "float32"})
    return [first.model_copy(update={"environment": there}), *others]


def an_error() -> Sequence[Bench]:
    return [bench(42, {"uniform_median": "OutOfMemoryError"}), *three_seeds()[1:]]


def unseeded() -> Sequence[Bench]:
    values = bench(42).model_dump(by_alias=True)
    row = next(row for row in values["variants"] if row["name"] == "uniform_median")
    row["measures"]["training"]["first_batch_sha256"] = "another order of the examples"
    return [Bench.model_validate(values), *three_seeds()[1:]]


def another_scale() -> Sequence[Bench]:
    why = (
        "ScaleChanged: its scale α/r differs from the probe's: model.layers.0 has 1.0, and the probe has 2.0"
    )
    return [bench(42, {"uniform_median": why}), *three_seeds()[1:]]


def blind() -> Sequence[Bench]:
    asked = config(compression={"controls": ["random_directions", "rewrite_control"]})
    return [bench(seed, {"random_directions": (1, 2)}, asked=asked) for seed in SEEDS]


INVALID: dict[str, tuple[Callable[[], Sequence[Bench]], str]] = {
    "the probe of a seed fails its gate": (undertrained, "the probe fails its quality gate"),
    "a planned seed is missing": (one_missing, "a planned seed has no answers to compare"),
    "a variant ended in an error on a seed": (an_error, "a planned seed has no answers to compare"),
    "seeds in two precisions": (other_precision, "the seeds differ in precision"),
    "a training that does not follow its seed": (unseeded, "its training was not seeded"),
    "another scale than the probe's": (another_scale, "its scale α/r differs from the probe's"),
    "a control that must fail passes": (blind, "random_directions must fail but passes on all seeds"),
}


@pytest.mark.parametrize("why", INVALID)
def test_what_makes_a_result_invalid(why):
    make, words = INVALID[why]
    shown = evidence(aggregate(make(), records_verified=True))
    assert shown.grade == "X"
    assert words in shown.reason


def test_a_variant_that_repeats_another_on_every_seed_is_no_result_of_its_own():
    asked = config(compression={"variants": ["uniform_r8", "uniform_median"], "allowed_ranks": [8, 64]})
    report = aggregate([bench(seed, asked=asked) for seed in SEEDS])
    twins = [v for v in report.variants if {row.same_as for row in v.seeds} - {None, "probe"}]
    assert twins
    for variant in twins:
        assert variant.evidence.grade == "X"
        assert "one result, not two" in variant.evidence.reason


# ---------------------------------------------------------------- the ladder


def test_the_smallest_step_that_is_shown_is_the_last_before_the_first_that_is_not():
    """The fourth is perfect, and is not looked at: the order was fixed, and the third had failed."""
    report = aggregate(ladder((5, 5), (30, 25), (90, 40), (0, 0)), records_verified=True)
    outcome = report.ladder
    assert [step.status for step in outcome.steps] == ["shown", "shown", "inconclusive", "not tested"]
    assert outcome.smallest_safe == "ladder.r16"
    assert "rank 16 is the smallest truncation shown to stay within the margin" in outcome.sentence
    assert "on average over trainings: accuracy is" in outcome.sentence
    assert outcome.next_step.name == "ladder.r8"
    assert grades(report)["ladder.r16"] == "B"
    assert "no control that must fail was planned" in named(report, "ladder.r16").evidence.reason
    assert grades(report)["ladder.r4"] == "C"
    assert "the sequence stopped at ladder.r8" in named(report, "ladder.r4").evidence.reason


def test_the_ladder_is_one_claim_beside_the_candidates():
    report = aggregate(ladder((40, 40), (20, 20), (60, 58), (90, 40)), records_verified=True)
    p_values = [evidence(report, step.name).pooled.next_training.p_value for step in report.ladder.steps]
    adjusted = [evidence(report, step.name).adjusted_p for step in report.ladder.steps]
    beside = [[v.evidence.pooled.next_training.p_value] for v in report.variants if v.is_candidate]
    assert adjusted == pytest.approx(adjusted_p_values([*beside, p_values])[-1])
    assert evidence(report, report.ladder.steps[0].name).family == len(beside) + 1


def test_one_seed_says_nothing_of_other_trainings():
    one = graded_seed(ladder((5, 5), (5, 5), (200, 5), (5, 5), seeds=[42])[0])
    assert one.ladder.bound == "these-runs"
    assert one.ladder.smallest_safe == "ladder.r16"
    assert one.ladder.sentence.endswith("one seed gives no evidence about other trainings")


def test_an_invalid_run_shows_no_step():
    runs = ladder((5, 5), (5, 5), (5, 5), (5, 5))
    outcome = aggregate(runs[:2]).ladder
    assert outcome.smallest_safe is None
    assert outcome.steps[0].reason == "a planned seed has no answers to compare"


def test_the_ladder_keeps_its_level_where_every_step_loses_the_margin():
    """Simulated: three seeds, 400 examples, every step exactly at the margin: at most 5 % show the first, which is
    where any false claim begins."""
    from fractions import Fraction

    from gradience.bench.verdict.evidence import Subject, adjusted, walk_ladder
    from gradience.reports.bench import PooledEvidence

    rng, false = np.random.default_rng(3), 0
    for _ in range(400):
        steps = {}
        for step in (8, 4):
            pooled = pool(rng.choice([-1, 0, 1], p=[0.0625, 0.9, 0.0375], size=(3, 400)))
            shown = PooledEvidence.of(pooled, Fraction("0.025"))
            steps[f"ladder.r{step}"] = Subject({}, pooled=pooled, shown=shown)
        p_values = {name: subject.p_of_step("mean-over-trainings") for name, subject in steps.items()}
        sequence = adjusted([[*steps]], p_values)
        false += walk_ladder(steps, Fraction("0.025"), sequence, seeds=3).smallest_safe is not None
    assert false <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5
    assert false > 0
