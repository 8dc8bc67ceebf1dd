"""Suggestions: what they rest on, what they save, and that a rank is never confounded with a scale."""

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
from audit_sample import report
from audit_sample import row as sampled
from hypothesis import given
from hypothesis import strategies as st

from gradience import ranks
from gradience.audit.adapter import MEASURES
from gradience.plan.allocate import ModuleSteps, cover, fill, start_cost
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToSuggestion, suggest
from gradience.ranks import DEFAULT_GRID, max_lora_rank_step
from gradience.reports.audit import LayerAudit


def row(name: str, k: int | None, *, r: int = 64, shape=(32, 96), status="", **more: Any) -> LayerAudit:
    """A module that needs `k` directions; None is untrained."""
    measured = dict.fromkeys(MEASURES, k)
    return sampled(
        name, None, r=r, shape=shape, status=status or ("ok" if k else "untrained"), **measured, **more
    )


def suggested(rows, grid=DEFAULT_GRID, *, use_rslora=False):
    audited = report(rows, suggest=False, with_gain=False, adapter={"use_rslora": use_rslora})
    return suggest(audited, grid)


def by_name(pattern):
    return {re.sub(r"\\(.)", r"\1", key[1:]): value for key, value in pattern.items()}


def test_median_and_percentile_over_trained_modules():
    suggestions = suggested([row("a", 3), row("b", 4), row("c", 5), row("d", 22), row("dead", None)])
    assert suggestions.median.unrounded == 4.5
    assert (suggestions.median.rank, suggestions.median.decided_by) == (8, "grid")
    assert suggestions.p90.unrounded == pytest.approx(16.9)
    assert (suggestions.p90.rank, suggestions.p90.decided_by) == (32, "grid")


def test_every_module_has_an_explicit_rank():
    suggestions = suggested(
        [
            row("model.layers.1.q", 3),
            row("model.layers.11.q", 40),
            row("dead", None),
            row("broken", None, status="nonfinite"),
        ]
    )
    assert by_name(suggestions.per_layer.rank_pattern) == {
        "model.layers.1.q": 4,
        "model.layers.11.q": 64,
        "dead": 1,
        "broken": 64,
    }
    assert suggestions.per_layer.r == 64
    assert suggestions.per_layer.lora_alpha == 128
    assert suggestions.per_layer.params == (4 + 64 + 1 + 64) * 128


def test_stacked_experts_share_a_rank_that_suffices_for_each():
    rows = [row("experts", k, expert=index) for index, k in enumerate((2, 7, None))]
    suggestions = suggested(rows)
    assert by_name(suggestions.per_layer.rank_pattern) == {"experts": 8}
    assert suggestions.per_layer.params == 3 * 8 * 128
    assert suggestions.per_layer.reduction == pytest.approx(1 - 8 / 64)


@pytest.mark.parametrize("which", ["uniform_median", "uniform_p90", "per_layer"])
def test_a_suggestion_is_what_compress_would_write(which):
    """Modules that share a name in the config share a rank: here one of them keeps its own, so both do."""
    sigma = np.array([4.0, 1.0, 0.1, 0.1])
    rows = [
        sampled("attn", None, r=4, shape=(16, 8), status="unsupported"),
        *(sampled(name, sigma, r=4, shape=(16, 8)) for name in ("attn.base_layer.out_proj", "other")),
    ]
    audited = report(rows, with_gain=False)
    plan = plan_compression(audited, ToSuggestion(which))
    suggestion = getattr(audited.suggestions, which.removeprefix("uniform_"))
    assert [module.new_rank for module in plan.modules] == [4, 4, 1]
    assert (suggestion.params, suggestion.bytes) == (plan.new_params, plan.new_bytes)
    assert suggestion.reduction == plan.reduction


modules = st.lists(
    st.tuples(st.integers(1, 64), st.none() | st.integers(1, 64), st.integers(1, 9), st.integers(1, 9)),
    min_size=1,
    max_size=12,
)


@given(modules, st.lists(st.integers(1, 80), min_size=1, max_size=6), st.booleans())
def test_never_above_what_is_there_and_never_below_the_evidence(modules, grid, rslora):
    rows = [
        row(f"m{index}", None if k is None else min(k, r), r=r, shape=(m, n))
        for index, (r, k, m, n) in enumerate(modules)
    ]
    suggestions = suggested(rows, grid=tuple(grid), use_rslora=rslora)
    if suggestions is None:
        assert all(layer.energy_rank_tau is None for layer in rows)
        return
    pattern = by_name(suggestions.per_layer.rank_pattern)
    assert pattern.keys() == {layer.name for layer in rows}
    for layer in rows:
        assert (layer.energy_rank_tau or 1) <= pattern[layer.name] <= layer.r
    total = sum(layer.params for layer in rows)
    for suggestion in (suggestions.median, suggestions.p90):
        assert suggestion.unrounded <= suggestion.rank <= max(layer.r for layer in rows)
        assert suggestion.reduction == pytest.approx(1 - suggestion.params / total)
        assert suggestion.max_lora_rank == max_lora_rank_step(suggestion.rank)
    assert suggestions.median.rank <= suggestions.p90.rank
    assert suggestions.median.unrounded == ranks.percentile(
        [layer.energy_rank_tau for layer in rows if layer.energy_rank_tau], 50
    )
    assert suggestions.per_layer.params == sum(pattern[layer.name] * sum(layer.shape) for layer in rows)
    assert suggestions.per_layer.r == max(pattern.values())


# ---------------------------------------------------------------- Allocation, against brute force


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
    for chosen in itertools.product(*choices):
        yield dict(zip((item.name for item in items), chosen, strict=True))


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
