"""Claims about these runs and about a new one: the errors that they promise, and the worked parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gradience.reports.bench import NoiseFloor
from gradience.statistics.paired import constrained, pair_grade, tango, tango_p_value
from gradience.statistics.pooled import pool
from gradience.statistics.table import PairedTable
from tests.statistics.paired_runs import draw

MARGIN = 0.025


def exact_chance(net: int, n: int, lost: float, gained: float) -> float:
    """The chance of at most `net` lost minus gained examples, from the whole distribution."""
    step = np.zeros(2 * n + 1)
    step[[0, 1, -1]] = 1 - lost - gained, lost, gained
    around = np.fft.irfft(np.fft.rfft(step) ** n, 2 * n + 1)
    return float(np.roll(around, n)[: net + n + 1].sum())


@pytest.mark.parametrize(("lost", "gained"), [(12, 8), (3, 0), (0, 0), (9, 20)])
def test_one_run_is_tangos_test_or_the_exact_chance(lost: int, gained: int) -> None:
    """The larger of two p-values; the bounds are where it is 5 %, and never inside Tango's."""
    n = 200
    differences = np.array([[-1] * lost + [1] * gained + [0] * (n - lost - gained)])
    table = PairedTable(n11=n - lost - gained, n10=lost, n01=gained, n00=0)
    pooled = pool(differences)
    only_reference, only_candidate = constrained(gained, lost, n, -MARGIN)
    exact = exact_chance(lost - gained, n, only_reference, only_candidate)
    assert pooled.p_value(MARGIN) == pytest.approx(max(exact, tango_p_value(table, MARGIN)))
    bounds = pooled.interval(confidence=0.9)
    assert pooled.p_value(-bounds.low) == pytest.approx(0.05)
    assert pooled.worse_p_value(-bounds.high) == pytest.approx(0.05)
    assert bounds.low <= tango(table, 0.9).low + 1e-9
    assert bounds.high >= tango(table, 0.9).high - 1e-9


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=2, max_size=12), st.integers(1, 3))
def test_bounds_of_any_answers_are_around_the_difference(row: list[int], runs: int) -> None:
    pooled = pool([row] * runs)
    low, high = pooled.interval()
    assert -1 <= low <= pooled.delta <= high <= 1


def test_no_change_shows_a_margin_from_the_floor_on() -> None:
    assert [pool(np.zeros((1, n))).p_value(MARGIN) <= 0.05 for n in (118, 119)] == [False, True]


def test_groups_that_change_as_one_count_as_one_example() -> None:
    """Forty texts in ten spellings are forty examples, and not four hundred."""
    texts, spellings = np.zeros((1, 40)), 10
    texts[0, 0] = -1
    rows, group_of = np.repeat(texts, spellings, axis=1), np.repeat(np.arange(40), spellings)
    assert pool(rows).p_value(MARGIN) > 0.05
    assert pool(np.zeros((1, 400))).p_value(MARGIN) < 0.001
    grouped = pool(np.zeros((1, 400)), group_of)
    assert (grouped.groups, grouped.independent_examples) == (40, 40)
    assert grouped.p_value(MARGIN) > 0.05
    assert pool(rows, group_of).independent_examples == pytest.approx(40, abs=1)
    apart = np.zeros((1, 400))
    apart[0, ::13] = np.resize([1, -1], 31)
    assert pool(apart, group_of).independent_examples == 124  # one more text that had changed as one


@pytest.mark.parametrize(
    ("shape", "size", "delta"), [((1, 120), 1, 0.025), ((3, 120), 1, 0.025), ((1, 360), 3, 0.0375)]
)
def test_changes_in_clusters_at_small_n_keep_the_error(
    shape: tuple[int, int], size: int, delta: float
) -> None:
    """At the margin, and all changes losses: the design effect of few changes is seldom seen."""
    rng, false, group_of = np.random.default_rng(7), 0, np.arange(shape[1]) // size
    for _ in range(1500):
        shared = rng.random((1, group_of.max() + 1))[:, group_of]
        values = np.where(
            rng.random((1, shape[1])) < 0.6, np.repeat(shared, shape[0], axis=0), rng.random(shape)
        )
        false += pool(-(values < delta).astype(int), group_of).p_value(delta) <= 0.05
    assert false / 1500 < 0.055 + 2 * (0.05 * 0.95 / 1500) ** 0.5


def test_one_run_says_nothing_of_other_trainings() -> None:
    pooled = pool(np.zeros((1, 20)))
    with pytest.raises(ValueError, match="two runs or more"):
        pooled.interval("mean-over-trainings")


def test_identical_runs_are_worth_one() -> None:
    one = np.array([-1] * 12 + [1] * 8 + [0] * 180)
    thrice = pool(np.stack([one] * 3))
    assert thrice.design_effect == pytest.approx(3, rel=0.01)
    assert thrice.run_variance == 0
    assert thrice.interval() == pytest.approx(pool(one[None]).interval(), abs=2e-4)


def test_runs_without_any_discordant_pair_are_worth_one_as_well() -> None:
    assert pool(np.zeros((3, 60))).interval() == pytest.approx(pool(np.zeros((1, 60))).interval())


def test_the_spread_between_runs_is_the_analysis_of_variances() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 30)) + rng.normal(size=(4, 1)) + rng.normal(size=(1, 30))
    rows = values.mean(axis=1)
    residual = values - rows[:, None] - values.mean(axis=0) + values.mean()
    within = (residual**2).sum() / (3 * 29)
    assert pool(values).run_variance == pytest.approx(max(0, rows.var(ddof=1) - within / 30))


def test_other_scores_get_students_bounds_with_the_worst_example_once_more() -> None:
    values = np.random.default_rng(1).normal(size=(3, 500))
    means, pooled = values.mean(axis=0), pool(values)
    lower, upper = (
        stats.ttest_1samp(np.append(means, extreme), -0.1, alternative=side)
        for extreme, side in ((means.min(), "greater"), (means.max(), "less"))
    )
    bounds = lower.confidence_interval(0.95).low, upper.confidence_interval(0.95).high
    assert pooled.interval() == pytest.approx(bounds)
    assert pooled.p_value(0.1) == pytest.approx(max(lower.pvalue, 0.99**500))
    assert pooled.worse_p_value(0.1) == pytest.approx(max(upper.pvalue, 0.99**500))
    grouped = pool(np.repeat(means, 4)[None], np.repeat(np.arange(500), 4))
    assert grouped.interval() == pytest.approx(bounds)


@pytest.mark.parametrize("heavy", [False, True])
def test_skewed_losses_keep_the_error(heavy: bool) -> None:
    """At the margin, 1,000 examples: Student's test errs in 9 to 10 %."""
    rng, false = np.random.default_rng(5), 0
    for _ in range(3000):
        drawn = np.exp(0.78125) - rng.lognormal(sigma=1.25, size=1000)
        if heavy:  # 1 % lose 10 standard deviations, on average
            drawn = rng.normal(size=1000) - 10 * rng.exponential(size=1000) * (rng.random(1000) < 0.01) + 0.1
        false += pool([drawn]).p_value(0.0) <= 0.05
    assert false / 3000 < 0.055


def test_fewer_than_1000_groups_of_other_scores_have_no_grade() -> None:
    assert [pair_grade(0.1, 0.2, 0.05, 0.001, groups=groups) for groups in (999, 1000)] == ["C", "B"]
    assert [pair_grade(-0.2, -0.1, 0.05, 1.0, groups=groups) for groups in (999, 1000)] == ["C", "D"]
    surely_equal = np.random.default_rng(3).normal(size=(1, 400)) / 1e6
    assert [pool(surely_equal[:, :n]).p_value(0.05) <= 0.05 for n in (298, 299)] == [False, True]


def test_the_next_training_has_students_prediction_interval() -> None:
    """Scores, so that the sampling variance is plain: mean ± t(S − 1)·√(s²·(1 + 1/S) + variance of the mean)."""
    values = np.random.default_rng(2).normal(size=(4, 50)) + np.arange(4)[:, None] / 10
    of_runs, means, expected = values.mean(axis=1), values.mean(axis=0), []
    for extreme, quantile in ((means.min(), 0.05), (means.max(), 0.95)):
        added = np.append(means, extreme)
        error = np.sqrt(of_runs.var(ddof=1) * (1 + 1 / 4) + added.var(ddof=1) / 51)
        expected.append(added.mean() + stats.t.ppf(quantile, 3) * error)
    assert pool(values).interval("next-training") == pytest.approx(expected)


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_the_bound_on_the_next_training_holds_in_95_of_100_if_trainings_vary_normally(runs: int) -> None:
    rng = np.random.default_rng(runs)
    true = rng.normal(-0.01, 0.01, size=(2000, runs + 1))  # the last is the training that comes next
    chances = np.clip(0.05 - true, 0.001, 0.2)  # lost; 5 % of the examples are gained
    examples = rng.random((2000, runs, 400))
    differences = np.where(examples < chances[:, :runs, None], -1, np.where(examples > 0.95, 1, 0))
    bounds = [pool(drawn).interval("next-training").low for drawn in differences]
    assert np.mean(true[:, -1] < bounds) <= 0.055


CLAIMS = ["these-runs", "mean-over-trainings", "next-training"]


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.sampled_from(CLAIMS))
def test_the_p_value_and_the_bound_agree(seed: int, runs: int, claim: str) -> None:
    rng = np.random.default_rng(seed)
    pooled = pool(draw(rng, 1, runs, 150, discordance=0.1, delta=-0.01, spread=0.02)[0])
    low = pooled.interval(claim, 0.9).low  # type: ignore[arg-type]
    if abs(low + MARGIN) > 1e-6:
        assert (pooled.p_value(MARGIN, claim) < 0.05) == (low > -MARGIN)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(3,), (2, 1), (0, 5)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        pool(np.zeros(shape))


@pytest.mark.parametrize(
    ("runs", "items", "discordance", "spread"),
    [(3, 200, 0.06, 0.0), (3, 500, 0.16, 0.01), (5, 200, 0.16, 0.01)],
)
def test_type_one_error_at_the_margin(runs: int, items: int, discordance: float, spread: float) -> None:
    """At lower resolution than benchmarks/evidence_calibration.py: 1,500 experiments know the error to ±1.7 points."""
    rng = np.random.default_rng(7)
    experiments = draw(rng, 1500, runs, items, discordance=discordance, delta=-MARGIN, spread=spread)
    claims = [pool(differences).p_value(MARGIN, "mean-over-trainings") < 0.05 for differences in experiments]
    assert 0.02 <= np.mean(claims) <= 0.09
    if not spread:
        claims = [pool(differences).p_value(MARGIN) < 0.05 for differences in experiments]
        assert 0.03 <= np.mean(claims) <= 0.075


def test_the_bootstrap_agrees_where_counts_are_large() -> None:
    differences = draw(np.random.default_rng(3), 1, 3, 1000, discordance=0.16, delta=0.0)[0]
    of_example = np.asarray(differences).mean(axis=0)
    means = np.random.default_rng(0).choice(of_example, (10_000, len(of_example))).mean(axis=1)
    assert np.quantile(means, 0.05) == pytest.approx(pool(differences).interval().low, abs=0.002)


def test_the_noise_floor_compares_every_two_runs() -> None:
    correct = np.random.default_rng(4).random((4, 50)) < 0.5
    pairs = [(a, b) for a in range(4) for b in range(a)]
    floor = NoiseFloor.of(np.array([correct[a].astype(int) - correct[b] for a, b in pairs]))
    assert floor.comparisons == 6
    assert floor.discordance == pytest.approx(np.mean([(correct[a] != correct[b]).mean() for a, b in pairs]))
    assert floor.largest_delta == pytest.approx(
        max(abs(correct[a].mean() - correct[b].mean()) for a, b in pairs)
    )
