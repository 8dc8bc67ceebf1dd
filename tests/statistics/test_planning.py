"""Power, the policy's operating characteristics, several claims: against tables, enumeration and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.statistics import (
    fixed_sequence,
    holm,
    items_needed,
    pass_probability,
    pool,
    power,
    seed_pass_probability,
    seeds_needed,
    smallest_margin,
)
from tests.statistics.paired_runs import draw


@pytest.mark.parametrize(
    ("discordance", "seeds", "items"),
    [(0.06, 1, 594), (0.06, 3, 277), (0.16, 3, 739), (0.20, 5, 713), (0.08, 1, 792)],
)
def test_examples_that_a_claim_about_these_runs_needs(discordance: float, seeds: int, items: int) -> None:
    assert items_needed(discordance, 0.025, seeds=seeds) == pytest.approx(items, abs=1)


@pytest.mark.parametrize(
    ("discordance", "spread", "seeds", "items"),
    [(0.06, 0.005, 3, 901), (0.06, 0.01, 5, 468), (0.16, 0.005, 8, 623), (0.05, 0.01, 10, 188)],
)
def test_examples_that_a_claim_about_a_new_run_needs(
    discordance: float, spread: float, seeds: int, items: int
) -> None:
    needed = items_needed(discordance, 0.025, seeds=seeds, spread=spread, claim="new-run")
    assert needed == pytest.approx(items, abs=1)


def test_runs_that_differ_too_much_show_nothing_at_any_size() -> None:
    assert items_needed(0.06, 0.025, seeds=3, spread=0.01, claim="new-run", wanted=0.9) is None
    assert items_needed(0.06, 0.025, delta=-0.025) is None
    assert seeds_needed(200, 0.16, 0.025, spread=0.05, most=10) is None


@given(st.sampled_from([0.04, 0.1, 0.2]), st.integers(2, 8), st.sampled_from(["these-runs", "new-run"]))
def test_what_is_needed_gives_the_power_and_the_margin(discordance: float, seeds: int, claim: str) -> None:
    plan = {"seeds": seeds, "claim": claim, "spread": 0.002}
    needed = items_needed(discordance, 0.025, **plan)  # type: ignore[arg-type]
    if needed is None:
        return
    assert power(needed, discordance, 0.025, **plan) >= 0.8 - 0.01  # type: ignore[arg-type]
    assert smallest_margin(needed, discordance, **plan) <= 0.025 + 1e-9  # type: ignore[arg-type]
    assert smallest_margin(needed - 1, discordance, **plan) > 0.025 - 1e-4  # type: ignore[arg-type]


def test_the_power_is_that_of_the_test() -> None:
    experiments = draw(np.random.default_rng(5), 800, 3, 500, discordance=0.12, delta=0.0)
    claims = [pool(differences).p_value(0.025) < 0.05 for differences in experiments]
    assert np.mean(claims) == pytest.approx(power(500, 0.12, 0.025, seeds=3), abs=0.06)


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


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_steps_down(values: list[float]) -> None:
    """The adjusted value is at most the level exactly where the step-down procedure claims."""
    adjusted = holm(values)
    for level in (0.01, 0.05, 0.2):
        claimed: set[int] = set()
        for step, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
            if values[index] * (len(values) - step) > level:
                break
            claimed.add(index)
        assert {index for index, value in enumerate(adjusted) if value <= level} == claimed


def test_a_fixed_sequence_stops_at_the_first_that_is_not_shown() -> None:
    assert fixed_sequence([0.01, 0.04, 0.06, 0.001]) == 2
    assert fixed_sequence([0.2, 0.001]) == 0
    assert fixed_sequence([0.01, float("nan"), 0.01]) == 1
    assert fixed_sequence([]) == 0
