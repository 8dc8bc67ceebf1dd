"""The allocation itself: against brute force, and what must hold of any."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.plan.allocate import ModuleSteps, cover, fill, start_cost

worths = st.lists(st.floats(0, 100), min_size=1, max_size=4).map(lambda values: sorted(values, reverse=True))


@st.composite
def item_lists(draw, equal_costs: bool = False):
    cost = draw(st.integers(1, 9))
    items = []
    for index, worth in enumerate(draw(st.lists(worths, min_size=1, max_size=4))):
        steps = range(1, len(worth) + 1)
        if not equal_costs:
            cost = draw(st.integers(1, 9))
            steps = sorted({*draw(st.sets(st.sampled_from(range(1, len(worth) + 1)))), len(worth)})
        start = draw(st.sampled_from([0, steps[0]]))
        items.append(ModuleSteps(f"m{index}", np.array(worth), cost, start, steps))
    return items


def worth_of(items, chosen) -> float:
    return math.fsum(float(item.worth[: chosen[item.name]].sum()) for item in items)


def loss_of(items, chosen) -> float:
    """Of what is left out: not a difference of sums, which would hide small worths."""
    return math.fsum(worth for item in items for worth in item.worth[chosen[item.name] :])


def cost_of(items, chosen) -> int:
    return sum(item.cost * chosen[item.name] for item in items)


def every_choice(items):
    choices = [sorted({item.start, *(step for step in item.steps if step > item.start)}) for item in items]
    for ranks in itertools.product(*choices):
        yield dict(zip((item.name for item in items), ranks, strict=True))


def best(items, limit: int) -> float:
    return max(worth_of(items, chosen) for chosen in every_choice(items) if cost_of(items, chosen) <= limit)


@given(item_lists(), st.integers(0, 150))
def test_a_budget_is_kept_and_nearly_the_best(items, limit):
    limit = max(limit, start_cost(items))
    chosen = fill(items, limit)
    assert cost_of(items, chosen) <= limit
    assert all(chosen[item.name] in {item.start, *item.steps} for item in items)
    steps = [
        float(item.worth[low:high].sum())
        for item in items
        for low, high in itertools.pairwise(sorted({item.start, *(s for s in item.steps if s > item.start)}))
    ]
    optimum = best(items, limit)
    assert worth_of(items, chosen) >= optimum - max(steps, default=0.0) - 1e-9
    # What it spends, it spends best where nothing was skipped on the way.
    if cost_of(items, fill(items, 10**9)) <= limit:
        assert worth_of(items, chosen) == pytest.approx(optimum)


@given(item_lists(equal_costs=True), st.integers(0, 60))
def test_with_equal_costs_the_budget_is_the_best(items, limit):
    limit = max(limit, start_cost(items))
    assert worth_of(items, fill(items, limit)) == pytest.approx(best(items, limit))


@given(item_lists(), st.integers(0, 120), st.integers(0, 40))
def test_a_larger_budget_never_keeps_less(items, limit, more):
    limit = max(limit, start_cost(items))
    small, large = fill(items, limit), fill(items, limit + more)
    assert worth_of(items, large) >= worth_of(items, small) - 1e-9


@given(item_lists(), st.floats(0, 300))
def test_a_loss_is_kept_and_its_price_is_the_best_for_what_it_keeps(items, allowed):
    chosen = cover(items, allowed)
    assert loss_of(items, chosen) <= allowed * (1 + 1e-12)
    cost = cost_of(items, chosen)
    assert worth_of(items, chosen) == pytest.approx(best(items, cost))


@given(item_lists(), st.floats(0, 300), st.floats(0, 300))
def test_a_larger_loss_never_costs_more(items, one, other):
    small, large = sorted((one, other))
    assert cost_of(items, cover(items, large)) <= cost_of(items, cover(items, small))
