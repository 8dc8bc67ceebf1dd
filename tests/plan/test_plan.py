"""Plans: every criterion, budgets against brute force, the grid, what stays and what is refused."""

import datetime
import math
import shutil
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from audit_sample import report, row, small_report
from hypothesis import given
from hypothesis import strategies as st
from raising import raises

from gradience import audit_adapter, compress_adapter
from gradience.cli.demo import example_adapter
from gradience.errors import InputError, UsageError, WrongType
from gradience.plan.compression import ToKl, plan_compression
from gradience.plan.criteria import (
    EDITED,
    HostLimit,
    ToBudget,
    ToEnergy,
    ToHost,
    ToPlan,
    ToRank,
    ToRanks,
    ToSuggestion,
    host_limits,
    limit_of,
)
from gradience.plan.modules import Grid
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
        (ToBudget(reduction=reduction), full * (1 - Fraction(str(reduction)))),
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
    with raises(InputError, "untrained") as untrained:
        plan_compression(audited, ToRank(2))
    assert "check that the trained weights were saved" in untrained.value.hint


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


# ---------------------------------------------------------------- Ranks given module by module, and plans


SIGMA = np.array([4.0, 2.0, 1.0, 0.5])


def audited(**more):
    rows = [row(name, SIGMA, r=4, shape=(8, 16)) for name in ("a", "b", "c")]
    return report(rows, with_gain=False, **more)


def changed(plan: CompressionPlan, **new_ranks: int) -> CompressionPlan:
    """The plan with other ranks and everything else as it stood, as an editor leaves it."""
    content = plan.model_dump(mode="json")
    for module in content["modules"]:
        module["new_rank"] = new_ranks.get(module["name"], module["new_rank"])
    return CompressionPlan.model_validate(content)


def test_a_plan_that_was_edited_twice_says_so_once():
    plan = plan_compression(audited(), ToRank(2))
    once = plan_compression(audited(), ToPlan(changed(plan, a=4, c=1)))
    twice = plan_compression(audited(), ToPlan(changed(once, a=1)))
    assert once.criterion == twice.criterion == plan.criterion + EDITED


@pytest.mark.parametrize(
    ("ranks", "code", "words"),
    [
        ({"a": 2, "b": 2}, "plan-mismatch", "the ranks: no rank for c"),
        ({"a": 2, "b": 2, "c": 2, "d": 2}, "plan-mismatch", "the ranks: d is no module of the adapter"),
        ({"a": 2, "b": 2, "c": 5}, "bad-rank", "rank 5 for c: its rank is 4"),
        ({"a": 2, "b": 2, "c": -1}, "bad-rank", "rank -1 for c"),
        ({"a": 0, "b": 0, "c": 0}, "empty-plan", "removes every module"),
    ],
)
def test_ranks_that_do_not_fit(ranks, code, words):
    with raises(UsageError, code, words):
        plan_compression(audited(), ToRanks(ranks))


def test_a_module_that_keeps_its_rank_gets_no_other():
    rows = [
        row("conv", SIGMA, r=4, shape=(8, 16), kind="conv", groups=2),
        row("b", SIGMA, r=4, shape=(8, 16)),
    ]
    grouped = report(rows, with_gain=False)
    with pytest.raises(UsageError, match=r"rank 2 for conv: it keeps its rank 4 \(block-diagonal"):
        plan_compression(grouped, ToRanks({"conv": 2, "b": 2}))
    assert plan_compression(grouped, ToRanks({"conv": 4, "b": 2})).modules[1].new_rank == 2


def test_a_plan_of_another_adapter():
    plan = plan_compression(audited(), ToRank(2))
    other = audited(adapter={"sha256": "0" * 64})
    with raises(UsageError, "plan-mismatch", "for another adapter"):
        plan_compression(other, ToPlan(plan))


# ---------------------------------------------------------------- What no plan is made for, and why


def test_a_norm_beyond_double_precision():
    layer = replace(row("m.0", np.array([1.0]), r=1, shape=(8, 8)), singular_values=())
    with raises(InputError, "overflow"):
        plan_compression(report([layer], with_gain=False), ToRank(1))


def test_no_suggestion_to_follow():
    with raises(InputError, "no-suggestion"):
        plan_compression(small_report([2.0, 1.0], suggest=False), ToSuggestion("uniform_p90"))


@pytest.mark.parametrize(
    ("criterion", "value"),
    [
        (ToRank, {"rank": 0}),
        (ToEnergy, {"tau": 0.0}),
        (ToEnergy, {"tau": 1.1}),
        (ToEnergy, {"tau": math.nan}),
        (ToBudget, {"reduction": 1.0}),
        (ToBudget, {"reduction": -0.1}),
        (ToBudget, {"max_params": 0}),
        (ToBudget, {"max_error": 1.0}),
        (ToKl, {"max_kl_per_token": 0.0}),
        (ToKl, {"max_kl_per_token": math.inf}),
        (ToSuggestion, {"which": "p95"}),
        (Grid, {"allowed": []}),
        (Grid, {"allowed": [0, 4]}),
        (Grid, {"allowed": "4,x"}),
    ],
    ids=str,
)
def test_values_that_make_no_sense(criterion, value):
    with pytest.raises(WrongType, match=next(iter(value))) as refusal:
        criterion(**value)
    assert refusal.value.exit_code == 2


def test_budgets_that_cannot_be_met():
    for limits in ({}, {"reduction": 0.5, "max_params": 10}):
        with raises(UsageError, "several-criteria", "exactly one"):
            ToBudget(**limits)
    with pytest.raises(UsageError, match="removes every module"):
        plan_compression(small_report([1.0], shapes=((8, 8),)), ToBudget(max_params=15))


@pytest.mark.parametrize("budget", [ToBudget(max_params=31), ToBudget(reduction=0.8)], ids=str)
def test_a_budget_below_what_must_stay(budget):
    """Two DoRA modules keep one component each: 32 parameters."""
    audited = small_report(
        [2.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0], shapes=((8, 8),), adapter={"use_dora": True}
    )
    with raises(UsageError, "bad-budget", r"cannot be met: modules that must be kept need 32"):
        plan_compression(audited, budget)


# ---------------------------------------------------------------- Hosts


LIMITED = {
    "host": "here",
    "name": "Here",
    "model": None,
    "source": "https://example.org",
    "date": "2026-11-29",
}


def test_each_row_has_its_source_and_its_date_and_each_host_a_limit_for_other_models():
    assert len({(limit.host, limit.model) for limit in host_limits()}) == len(host_limits())
    for limit in host_limits():
        assert limit.source.startswith("https://")
        assert datetime.date.fromisoformat(limit.date) <= datetime.date.today()
        assert 1 <= limit.min_rank <= limit.max_rank
        assert [other.model for other in host_limits() if other.host == limit.host].count(None) == 1
        assert limit.words.endswith(
            f"documented by {limit.name} ({limit.source}, read {limit.date}; not run)"
        )


@pytest.mark.parametrize(
    ("target", "rank"),
    [("wandb", 16), ("wandb:openai/gpt-oss-120b", 64), ("together:moonshotai/Kimi-K2-Instruct", 16),
     ("together:qwen", 64), ("together:deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 64),
     ("together:deepseek-ai/DeepSeek-V3", 16), ("Fireworks", 64), ("sagemaker", 256)],
)  # fmt: skip
def test_a_model_with_a_limit_of_its_own_has_that(target, rank):
    assert limit_of(target).max_rank == rank


def test_a_plan_names_the_source(monkeypatch, tmp_path):
    adapter = shutil.copytree(example_adapter(), tmp_path / "adapter")
    monkeypatch.setattr("gradience.plan.criteria.host_limits", lambda: (HostLimit(**LIMITED, max_rank=4),))
    report = compress_adapter(adapter, tmp_path / "small", host="here")
    assert {module.new_rank for module in report.modules} == {4}
    said = "rank at most 4, documented by Here (https://example.org, read 2026-11-29; not run)"
    assert said in " ".join(report.to_text().split())
    with pytest.raises(UsageError, match="--for"):
        compress_adapter(adapter, dry_run=True, host="here", rank=4)


@pytest.mark.parametrize(
    ("limits", "words"), [({"modules": ("q_proj",)}, "only on q_proj"), ({"min_rank": 9}, "rank 9")]
)
def test_what_a_host_does_not_take_is_refused(limits, words):
    criterion = ToHost(HostLimit(**LIMITED, max_rank=16, **limits))
    with raises(InputError, "host-limit", words):
        plan_compression(audit_adapter(example_adapter()), criterion)
