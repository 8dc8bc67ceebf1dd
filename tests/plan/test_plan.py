"""Plans: every criterion, budgets against brute force, the grid, what stays and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from audit_sample import mistral_rows, report, row, small_report
from hypothesis import given
from hypothesis import strategies as st

from gradience.errors import InputError, UsageError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToBudget, ToEnergy, ToRank, ToSuggestion
from gradience.plan.suggestions import suggest
from gradience.ranks import DEFAULT_GRID
from gradience.reports.audit import TensorNote
from gradience.reports.compression import CompressionPlan

ROUNDING = 1e-11
"""Artifacts keep 12 digits."""


def ranks_of(plan: CompressionPlan) -> dict[str, int]:
    return {module.name: module.new_rank for module in plan.modules}


# ---------------------------------------------------------------- criteria


@pytest.mark.parametrize(
    ("criterion", "options", "expected"),
    [
        (ToRank(2), {}, [2, 2, 1]),
        (ToRank(9), {}, [4, 3, 1]),
        (ToRank(2), {"allowed_ranks": [3]}, [3, 3, 1]),
        (ToEnergy(0.5), {}, [1, 2, 1]),
        (ToEnergy(0.9), {}, [2, 3, 1]),
        (ToEnergy(0.9), {"allowed_ranks": [1, 4]}, [4, 3, 1]),
        (ToEnergy(1.0), {}, [4, 3, 1]),
    ],
    ids=str,
)
def test_ranks_of_a_criterion(criterion, options, expected):
    audited = small_report([4.0, 2.0, 1.0, 0.5], [1.0, 1.0, 1.0], [3.0])
    assert list(ranks_of(plan_compression(audited, criterion, **options)).values()) == expected


@pytest.mark.parametrize("which", ["uniform_median", "uniform_p90", "per_layer"])
def test_what_the_audit_suggests(which):
    rows = mistral_rows(4)
    audited = report(rows)
    suggestions = suggest(audited, DEFAULT_GRID)
    audited = audited.model_copy(update={"suggestions": suggestions})
    plan = plan_compression(audited, ToSuggestion(which))
    if which == "per_layer":
        assert list(ranks_of(plan).values()) == list(suggestions.per_layer.rank_pattern.values())
        assert plan.new_params == suggestions.per_layer.params
    else:
        chosen = suggestions.median if which == "uniform_median" else suggestions.p90
        assert set(ranks_of(plan).values()) == {chosen.rank}
        assert plan.new_params == chosen.params
        assert plan.reduction == pytest.approx(chosen.reduction)


spectra_lists = st.lists(
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6).map(lambda values: sorted(values, reverse=True)),
    min_size=1,
    max_size=5,
)


@given(spectra_lists, st.integers(1, 7))
def test_figures_of_a_plan(spectra, rank):
    plan = plan_compression(small_report(*spectra), ToRank(rank))
    kept = sum(float(np.square(values[:rank]).sum()) for values in spectra)
    total = sum(float(np.square(values).sum()) for values in spectra)
    assert plan.kept_energy == pytest.approx(kept / total, rel=ROUNDING)
    assert plan.kept_energy + plan.predicted_error**2 == pytest.approx(1.0, abs=ROUNDING)
    for module, values in zip(plan.modules, spectra, strict=True):
        assert module.kept_energy + module.predicted_error**2 == pytest.approx(1.0, abs=ROUNDING)
        assert module.norm == pytest.approx(float(np.linalg.norm(values)), rel=1e-10)
        assert module.new_rank == min(rank, module.old_rank)
        assert module.new_params * module.old_rank == module.old_params * module.new_rank
        assert module.new_bytes == 2 * module.new_params
    assert plan.new_params == sum(module.new_params for module in plan.modules)
    assert plan.reduction == pytest.approx(1 - plan.new_params / plan.old_params)


@given(spectra_lists, st.floats(0, 0.999))
def test_the_error_asked_for_is_met(spectra, allowed):
    plan = plan_or_empty(small_report(*spectra), ToBudget(max_error=allowed))
    if plan is not None:
        assert plan.predicted_error <= allowed * (1 + ROUNDING)
        energies = [
            float(np.square(values[module.new_rank :]).sum())
            for module, values in zip(plan.modules, spectra, strict=True)
        ]
        total = sum(float(np.square(values).sum()) for values in spectra)
        assert sum(energies) <= allowed**2 * total * (1 + 1e-9)


def plan_or_empty(audited, criterion, **options) -> CompressionPlan | None:
    try:
        return plan_compression(audited, criterion, **options)
    except UsageError as error:
        if error.code != "empty-plan":
            raise
        return None


grids = st.one_of(
    st.none().map(lambda _: {}),
    st.sets(st.integers(1, 6), min_size=1, max_size=3).map(lambda grid: {"allowed_ranks": sorted(grid)}),
)


@given(spectra_lists, st.floats(0, 0.99), grids)
def test_budgets_are_never_exceeded_and_grids_respected(spectra, reduction, grid):
    audited = small_report(*spectra)
    full = sum(layer.params for layer in audited.layers)
    for criterion, limit in (
        (ToBudget(reduction=reduction), full * (1 - reduction)),
        (ToBudget(max_params=max(1, int(full * 0.6))), full * 0.6),
    ):
        plan = plan_or_empty(audited, criterion, **grid)
        if plan is None:
            continue
        assert plan.new_params <= limit
        for module in plan.modules:
            allowed = grid.get("allowed_ranks")
            assert module.new_rank in (0, module.old_rank) or allowed is None or module.new_rank in allowed


@pytest.mark.parametrize(("reduction", "params"), [("0.9", 100), ("0.7", 300), ("0.1", 900), ("0.3", 700)])
def test_decimal_shares_are_exact(reduction, params):
    """In binary, 1 − 0.9 leaves 99.99999999999998 of 1,000 parameters, and one component too few."""
    audited = small_report([4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05], shapes=((50, 50),))
    assert plan_compression(audited, ToBudget(reduction=float(reduction))).new_params == params


def test_components_compete_over_modules():
    """By energy per parameter; what does not fit makes room for what does."""
    audited = small_report([3.0, 0.5], [3.0, 0.1], shapes=((10, 10), (100, 100)))
    plan = plan_compression(audited, ToBudget(max_params=220))
    assert list(ranks_of(plan).values()) == [1, 1]
    plan = plan_compression(audited, ToBudget(max_params=200))
    assert list(ranks_of(plan).values()) == [2, 0]


# ---------------------------------------------------------------- what stays


def test_untrained_modules():
    rows = [
        row("model.layers.0.attn.q", np.array([2.0, 1.0, 0.5, 0.1]), r=4, shape=(8, 8)),
        row("model.layers.1.attn.q", None, r=4, shape=(8, 8), status="untrained"),
    ]
    audited = report(rows, with_gain=False)
    assert list(ranks_of(plan_compression(audited, ToEnergy(0.9))).values()) == [2, 1]
    assert list(ranks_of(plan_compression(audited, ToBudget(reduction=0.5))).values()) == [4, 0]
    untrained = plan_compression(audited, ToRank(2)).modules[1]
    assert (untrained.kept_energy, untrained.predicted_error, untrained.norm) == (None, None, 0.0)


def test_nothing_was_trained():
    audited = report(
        [row("a.q", None, r=4, shape=(8, 8), status="untrained")], with_gain=False, suggest=False
    )
    with pytest.raises(InputError) as untrained:
        plan_compression(audited, ToRank(2))
    assert untrained.value.code == "untrained"
    assert "were the trained weights saved?" in untrained.value.hint


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ("base_model.model.m.0.q.lora_magnitude_vector", "DoRA magnitude"),
        ("base_model.model.m.0.q.lora_B.bias", "bias of lora_B (lora_bias)"),
        ("base_model.model.m.0.q.base_layer.bias", "bias of the base layer"),
        ("base_model.model.m.0.q.base_layer.weight", "weight of the base model saved beside the adapter"),
        ("base_model.model.m.0.q.token_adapter.trainable_tokens_delta", "trained rows of an embedding"),
    ],
)
@pytest.mark.parametrize(("grid", "least"), [({}, 1), ({"allowed_ranks": [2, 4]}, 2)])
def test_modules_with_other_tensors_are_never_left_out(tensor, reason, grid, least):
    rows = [
        row("m.0.q", np.array([1e-6, 1e-7, 1e-8, 1e-9]), r=4, shape=(8, 8)),
        row("m.1.q", np.array([4.0, 3.0, 2.0, 1.0]), r=4, shape=(8, 8)),
        row("m.1.qq", np.array([1e-6, 1e-7, 1e-8, 1e-9]), r=4, shape=(8, 8)),
    ]
    audited = report(rows, with_gain=False, other=[TensorNote(tensor=tensor, reason=reason, params=8)])
    plan = plan_compression(audited, ToBudget(max_params=(4 + least) * 16), **grid)
    assert ranks_of(plan) == {"m.0.q": least, "m.1.q": 4, "m.1.qq": 0}


def test_experts_share_a_rank_and_stay():
    spectra = ([4.0, 1.0, 0.1], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0])
    rows = [
        row("m.experts.down", np.array(sigma) if any(sigma) else None, r=3, shape=(8, 8), kind="expert",
            expert=index, status="ok" if any(sigma) else "untrained")
        for index, sigma in enumerate(spectra)
    ]  # fmt: skip
    audited = report([*rows, row("m.q", np.array([9.0]), r=1, shape=(8, 8))], with_gain=False)
    plan = plan_compression(audited, ToEnergy(0.9))
    assert ranks_of(plan) == {"m.experts.down": 3, "m.q": 1}
    (experts, _) = plan.modules
    assert experts.old_params == 3 * 3 * 16
    assert ranks_of(plan_compression(audited, ToBudget(max_params=3 * 16 + 16))) == {
        "m.experts.down": 1,
        "m.q": 1,
    }
    cut = plan_compression(audited, ToRank(1)).modules[0]
    assert cut.kept_energy == pytest.approx((16 + 1) / (16 + 1 + 0.01 + 3))
    assert cut.new_params == 3 * 16


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"groups": 2, "kind": "conv"}, "grouped"),
        ({"status": "unsupported", "singular_values": ()}, "cancel"),
    ],
)
@pytest.mark.parametrize("criterion", [ToRank(1), ToEnergy(0.1), ToBudget(reduction=0.3)], ids=str)
def test_modules_that_keep_their_rank(changes, reason, criterion):
    rows = [
        replace(row("m.0", np.array([1.0, 0.1]), r=2, shape=(8, 8)), **changes),
        row("m.1", np.array([4.0, 3.0, 0.2]), r=3, shape=(8, 8)),
    ]
    plan = plan_compression(report(rows, with_gain=False), criterion)
    assert plan.modules[0].new_rank == 2
    assert reason in plan.modules[0].fixed
    assert plan.modules[1].fixed == ""
    assert plan.modules[0].new_params == plan.modules[0].old_params


# ---------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        (ToRank(8), "rank 8"),
        (ToEnergy(0.95), "energy at least 0.95 in every module"),
        (ToSuggestion("uniform_p90"), "suggested (uniform_p90)"),
        (ToBudget(max_params=123456), "at most 123,456 parameters"),
        (ToBudget(max_error=0.1), "relative error at most 0.1"),
    ],
    ids=str,
)
def test_a_plan_says_what_it_follows(criterion, words):
    assert plan_compression(report(mistral_rows(1)), criterion).criterion.startswith(words)
