"""Group-sequential boundaries against published ones and against the multivariate normal distribution."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gradience.statistics.sequential import Look, boundaries, nominal_levels, plan_looks

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
