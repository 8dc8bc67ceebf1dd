"""The bound of the share of changed answers, against Clopper and Pearson's, and its error over looks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from gradience.statistics.agreement import largest_share, most_changed, p_value
from gradience.statistics.sequential import plan_looks


@pytest.mark.parametrize(("changed", "n"), [(0, 198), (8, 1000), (9, 1000), (30, 40), (40, 40)])
def test_at_one_look_the_bound_is_that_of_clopper_and_pearson(changed, n):
    bound = 1.0 if changed == n else beta.ppf(0.95, changed + 1, n - changed)
    assert largest_share(changed, [n]) == pytest.approx(bound, abs=1e-8)


def test_what_1_5_percent_takes():
    assert most_changed([198], 0.015, 0.05) == [-1]
    assert most_changed([199], 0.015, 0.05) == [0]
    assert most_changed([1000], 0.015, 0.05) == [8]


@pytest.mark.parametrize("share", [0.01, 0.025, 0.1])
def test_the_error_over_all_looks_is_at_most_the_level(share):
    looks = plan_looks(1200, 200)
    most = most_changed(looks, share, 0.05)
    answers = np.random.default_rng(0).random((20_000, 1200)) < share
    changed = answers.cumsum(axis=1)[:, np.array(looks) - 1]
    claimed = (changed <= most).any(axis=1).mean()
    assert 0.03 < claimed < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 20_000)


def test_bound_p_value_and_number_agree():
    looks, planned = (300, 500), 1000
    (_, most) = most_changed(looks, 0.02, 0.05, planned)
    for changed in (most, most + 1):
        ruled_out = changed <= most
        assert (p_value(changed, looks, 0.02, planned) <= 0.05) == ruled_out
        assert (largest_share(changed, looks, 0.05, planned) <= 0.02) == ruled_out
