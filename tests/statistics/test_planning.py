"""Power, the policy's operating characteristics, several claims: against tables, enumeration and simulation."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradience.statistics.paired import adjusted_p_values
from gradience.statistics.pooled import Claim, pool
from gradience.statistics.power import (
    Assumptions,
    discordance_range,
    examples_for_mean,
    pass_probability,
    seed_pass_probability,
    seeds_for_next,
    variance_range,
)
from gradience.statistics.sequential import Look, boundaries, nominal_levels, plan_looks
from tests.statistics.paired_runs import draw


@pytest.mark.parametrize("discordance", [0.03, 0.05, 0.08, 0.12, 0.16, 0.2])
@pytest.mark.parametrize(("wanted", "seeds"), list(product((0.8, 0.9), (1, 3, 5))))
def test_these_runs_need_the_textbooks_examples_and_more_where_few_answers_change(
    discordance: float, wanted: float, seeds: int
) -> None:
    quantiles = stats.norm.isf(0.05) + stats.norm.ppf(wanted)
    textbook = discordance * (1 + 0.2 * (seeds - 1)) / seeds * (quantiles / 0.025) ** 2
    needed = Assumptions(discordance, seeds=seeds).examples_needed(0.025, wanted)
    assert needed is not None
    # The textbook takes the errors of an equal variant, the score those of one at the margin. The exact chance costs
    # half a lost example, and the design effect counts one more group.
    assert 1 < needed / textbook < (1.1 if discordance >= 0.12 else 1.75)


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_with_endless_examples_a_new_run_is_students_test_of_the_seeds(seeds: int) -> None:
    seen = Assumptions(0.16, seeds=seeds, spread=0.01, claim="mean-over-trainings").power(10**12, 0.02)
    expected = stats.nct.sf(stats.t.isf(0.05, seeds - 1), seeds - 1, 0.02 / (0.01 / np.sqrt(seeds)))
    assert seen == pytest.approx(expected, abs=1e-3)


def test_runs_that_differ_too_much_show_nothing_at_any_size() -> None:
    assert (
        Assumptions(0.06, seeds=3, spread=0.01, claim="mean-over-trainings").examples_needed(0.025, 0.9)
        is None
    )
    assert Assumptions(0.06, delta=-0.025).examples_needed(0.025) is None
    assert (
        Assumptions(0.16, spread=0.05, claim="mean-over-trainings").seeds_needed(200, 0.025, most=10) is None
    )


@pytest.mark.parametrize("changed", [0, 1, 20, 200])
def test_the_ends_of_what_is_needed_are_exact_intervals(changed: int) -> None:
    exact = stats.binomtest(changed, 200).proportion_ci(0.95, method="exact")
    assert discordance_range(changed / 200, 200) == pytest.approx((exact.low, exact.high))
    ends = 199 * 4.0 / stats.chi2.ppf([0.975, 0.025], 199)
    assert variance_range(4.0, 200) == pytest.approx(tuple(ends))


def test_seeds_for_the_next_training_are_the_fewest_whose_prediction_interval_is_within_the_margin() -> None:
    pooled = pool(draw(np.random.default_rng(4), 1, 3, 2000, discordance=0.02, delta=0, spread=0.008)[0])
    needed = seeds_for_next(pooled, 0.025)

    def bound(seeds: int) -> float:
        error = math.sqrt(pooled.seed_variance * (1 + 1 / seeds) + pooled.example_variance)
        return pooled.delta - stats.t.ppf(0.95, seeds - 1) * error

    assert needed is not None
    assert pooled.runs < needed < 100
    assert bound(needed - 1) <= -0.025 < bound(needed)
    assert seeds_for_next(pooled, 0.025, most=needed) == needed
    assert seeds_for_next(pooled, 0.025, most=needed - 1) is None
    assert seeds_for_next(pool(np.zeros((1, 2000))), 0.025) is None


def test_more_examples_than_anybody_has_are_no_number() -> None:
    for margin in (1e-9, 1e-300, 5e-324):
        assert Assumptions(0.16).examples_needed(margin) is None
        assert examples_for_mean(0.25, margin) is None
    assert 9e7 < (Assumptions(0.16).examples_needed(1e-4) or 0) < 1.1e8
    assert Assumptions(0.1, seeds=3, claim="mean-over-trainings").power(100, 1.0) == 1


@given(
    st.sampled_from([0.04, 0.1, 0.2]),
    st.integers(2, 8),
    st.sampled_from(["these-runs", "mean-over-trainings"]),
)
def test_what_is_needed_gives_the_power_and_the_margin(discordance: float, seeds: int, claim: Claim) -> None:
    plan = Assumptions(discordance, seeds=seeds, claim=claim, spread=0.002)
    needed = plan.examples_needed(0.025)
    if needed is None:
        return
    assert plan.power(needed, 0.025) >= 0.8 - 0.01
    assert plan.smallest_margin(needed) <= 0.025 + 1e-8
    assert plan.smallest_margin(needed - 1) > 0.025 - 1e-8


@pytest.mark.parametrize(
    ("claim", "items", "discordance", "spread"),
    [
        pytest.param("these-runs", 500, 0.12, 0.0, id="these runs"),
        pytest.param("these-runs", 178, 0.03, 0.0, id="these runs, few answers change"),
        pytest.param("mean-over-trainings", 500, 0.12, 0.0, id="a new run, runs alike"),
        pytest.param("mean-over-trainings", 500, 0.12, 0.01, id="a new run, runs apart"),
    ],
)
def test_the_power_is_that_of_the_test(claim: Claim, items: int, discordance: float, spread: float) -> None:
    rng = np.random.default_rng(5)
    experiments = draw(rng, 1500, 3, items, discordance=discordance, delta=0.0, spread=spread)
    claims = [pool(differences).p_value(0.025, claim) < 0.05 for differences in experiments]
    planned = Assumptions(discordance, seeds=3, spread=spread, claim=claim).power(items, 0.025)
    assert np.mean(claims) == pytest.approx(planned, abs=0.04)


# ---------------------------------------------------------------- the policy


@pytest.mark.parametrize(("n", "allowed", "delta"), list(product((8, 13), (0, 1), (-0.05, 0.0, 0.1))))
def test_the_chance_of_one_seed_is_that_of_all_tables(n: int, allowed: int, delta: float) -> None:
    lost, gained = (0.3 - delta) / 2, (0.3 + delta) / 2
    chances = np.zeros(2 * n + 1)
    chances[n] = 1.0
    for _ in range(n):  # one example after the other
        chances = (1 - lost - gained) * chances + lost * np.roll(chances, 1) + gained * np.roll(chances, -1)
    expected = chances[: n + allowed + 1].sum()
    assert seed_pass_probability(n, allowed, 0.3, delta) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("n", "discordance", "spread", "delta", "chance"),
    [
        (200, 0.16, 0.0, 0.0, 0.58), (200, 0.16, 0.01, 0.0, 0.55), (500, 0.06, 0.01, -0.01, 0.60),
        (200, 0.06, 0.0, -0.025, 0.18), (1319, 0.16, 0.01, -0.01, 0.59), (500, 0.2, 0.0, -0.05, 0.001),
    ],
)  # fmt: skip
def test_the_policys_table(n: int, discordance: float, spread: float, delta: float, chance: float) -> None:
    chance_seen = pass_probability(n, n // 40, discordance, delta, spread)
    assert chance_seen == pytest.approx(chance, abs=0.012)


def test_two_of_three_with_a_floor_of_its_own() -> None:
    both = {"n": 200, "discordance": 0.16, "delta": -0.01}
    passes = seed_pass_probability(allowed=5, **both)
    holds = seed_pass_probability(allowed=10, **both)
    expected = passes**3 + 3 * passes**2 * (holds - passes)
    chance_seen = pass_probability(allowed=5, needed=2, floor_allowed=10, **both)
    assert chance_seen == pytest.approx(expected)


# ---------------------------------------------------------------- several claims


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=4))
def test_a_ladder_beside_candidates_is_adjusted_by_the_graph(claims: list[list[float]]) -> None:
    """The oracle is the graph of Bretz et al.: weights move along a ladder, and from its end to all other claims."""
    names = [(place, step) for place, each in enumerate(claims) for step in range(len(each))]
    adjusted = adjusted_p_values(claims)
    for level in (0.01, 0.05, 0.2):
        weights = {name: (1 / len(claims) if name[1] == 0 else 0.0) for name in names}
        open_claims, shown = dict.fromkeys(range(len(claims)), 0), set()
        while passing := [
            (place, step)
            for place, step in open_claims.items()
            if claims[place][step] <= level * weights[place, step] * (1 + 1e-12)
        ]:
            place, step = passing[0]
            shown.add((place, step))
            freed = weights.pop((place, step))
            if step + 1 < len(claims[place]):
                open_claims[place], weights[place, step + 1] = step + 1, freed
                continue
            del open_claims[place]
            for other in open_claims.items():
                weights[other] += freed / len(open_claims)
        seen = {(place, step) for place, step in names if adjusted[place][step] <= level * (1 + 1e-12)}
        assert seen == shown


# ---------------------------------------------------------------- Group-sequential boundaries


FIFTHS = [0.2, 0.4, 0.6, 0.8, 1.0]
PUBLISHED = {
    "O'Brien-Fleming": (4.877, 3.357, 2.680, 2.290, 2.031),
    "Pocock": (2.438, 2.427, 2.410, 2.397, 2.386),
}
"""Five equal looks, one-sided 2.5 %, the two functions of K. K. G. Lan & D. L. DeMets, Biometrika 70 (1983)."""
SPENT = {
    "O'Brien-Fleming": lambda time: 2 * stats.norm.sf(stats.norm.isf(0.0125) / math.sqrt(time)),
    "Pocock": lambda time: 0.025 * math.log1p((math.e - 1) * time),
}
LOOKS = st.builds(plan_looks, st.integers(220, 20_000), st.sampled_from([100, 200, 300]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_boundaries_are_the_published_ones(name):
    computed = boundaries(FIFTHS, [SPENT[name](time) for time in FIFTHS])
    assert computed == pytest.approx(PUBLISHED[name], abs=6e-4)


@pytest.mark.parametrize(("looks", "level"), [((200, 1000), 0.05), ((328, 560, 1400, 2186), 0.025)])
def test_the_whole_test_has_the_error_of_the_multivariate_normal(looks, level):
    bounds = stats.norm.isf(nominal_levels(looks, level))
    n = np.array(looks)
    covariance = np.sqrt(np.minimum.outer(n, n) / np.maximum.outer(n, n))
    kept = stats.multivariate_normal.cdf(bounds, cov=covariance, abseps=1e-7, maxpts=10**6)
    assert 1 - kept == pytest.approx(level, abs=2e-5)


@settings(max_examples=25)
@given(LOOKS, st.data())
def test_a_p_value_is_the_level_at_which_the_look_rejects(looks, data):
    look = Look(looks, data.draw(st.integers(1, len(looks))))
    level = data.draw(st.sampled_from([1e-6, 0.001, 0.025, 0.05, 0.3]))
    assert look.p_value(look.nominal_level(level)) == pytest.approx(level, rel=1e-4)
    assert look.confidence(1 - 2 * level) == pytest.approx(1 - 2 * look.nominal_level(level))


def test_extreme_p_values():
    look = Look(plan_looks(1000, 200), 3)
    assert (look.p_value(0.0), look.p_value(0.9), look.p_value(1.0)) == (1e-12, 1.0, 1.0)
    assert Look((150,), 1).p_value(0.031) == 0.031
    assert Look((150,), 1).confidence(0.9) == pytest.approx(0.9)


@pytest.mark.parametrize("nominal", [0.02, 0.2, 0.5])
def test_conditional_power_is_the_share_of_simulated_continuations(nominal):
    look = Look((200, 400, 600, 800, 1000), 2)
    time, z = look.share, stats.norm.isf(nominal)
    drift = z / math.sqrt(time)
    steps = np.random.default_rng(3).standard_normal(200_000) * math.sqrt(1 - time)
    ends = z * math.sqrt(time) + drift * (1 - time) + steps
    reached = (ends > stats.norm.isf(nominal_levels(look.looks)[-1])).mean()
    assert look.conditional_power(nominal) == pytest.approx(reached, abs=0.004)


@given(st.integers(1, 20_000), st.integers(1, 400))
def test_looks_rise_from_the_floor_to_all_examples(examples, floor):
    looks = plan_looks(examples, floor)
    assert looks[-1] == examples
    assert len(looks) <= 9
    assert len(looks) == 1 or looks[0] >= max(floor, round(0.15 * examples))
    assert all(b - a >= 19 for a, b in pairwise(looks))
