"""Measures of one module by hand: a hundred equal directions, and one alone."""

from __future__ import annotations

import numpy as np
import pytest

from gradience.audit.measures import MEASURES, Update


def measures(values, rank, shape=(200, 300), tau=0.5):
    update = Update(np.asarray(values, float), rank, shape, tau)
    return {name: measure(update) for name, measure in MEASURES.items()}


def test_a_hundred_equal_directions_of_two_hundred():
    row = measures(np.ones(100), 200)
    assert row["stable_rank"] == pytest.approx(100)
    assert row["effective_rank"] == pytest.approx(100)
    assert row["utilization"] == pytest.approx(0.5)
    assert row["rank_use"] == pytest.approx(99 / 199)
    assert [row[f"energy_rank_{share}"] for share in (90, 95, 99, "tau")] == [90, 95, 99, 50]
    assert row["null_position"] == pytest.approx(99 / (row["null_stable_rank"] - 1))
    assert 1 < row["null_stable_rank"] < 200


def test_one_direction_alone():
    row = measures([2.0], 1)
    assert row["stable_rank"] == row["effective_rank"] == row["utilization"] == row["energy_rank_99"] == 1
    assert row["rank_use"] is None
    assert row["null_position"] is None


@pytest.mark.parametrize("share", [0.90, 0.95, 0.99, 0.5])
def test_the_margin_is_that_of_the_nearest_share(share):
    beyond = measures([np.sqrt(share + 1e-6), np.sqrt(1 - share - 1e-6)], 2)
    assert beyond["energy_margin"] == pytest.approx(1e-6, rel=1e-3)
