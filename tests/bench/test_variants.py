"""From an audit to the adapters that are compared: every module explicit, the scale held, nothing run twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from audit_sample import report, row
from hypothesis import given
from hypothesis import strategies as st

from gradience.bench.config.load import BenchConfig
from gradience.bench.plan.variants import NO_COMPRESSION, plan_variants
from gradience.errors import UsageError


def config(**compression):
    return BenchConfig.model_validate(
        {
            "model": {"name": "m", "type": compression.pop("type", "seqcls")},
            "task": {"profile": "t"},
            "lora": {"probe_r": 32, "alpha": 64},
            "train": {"lr": 1e-4, "max_steps": 10},
            "compression": {"arms": ["retrain"], "controls": []} | compression,
        }
    )


def spread(k: int, r: int) -> np.ndarray:
    """r singular values of which k hold 0.9 of the energy (with a little room)."""
    sigma = np.full(r, 1e-3)
    sigma[:k] = 1.0
    return sigma


def audited(*ks: int | None, r: int = 32, shape=(64, 48), rslora: bool = False, **more):
    rows = [
        row(
            f"layers.{i}.q_proj", None if k is None else spread(k, r), r=r, shape=shape, alpha=64.0,
            scale=2.0, status="untrained" if k is None else "ok",
        )
        for i, k in enumerate(ks)
    ]  # fmt: skip
    return report(rows, adapter={"use_rslora": rslora}, **more)


def planned(audit, **compression):
    return {variant.name: variant for variant in plan_variants(audit, config(**compression), seed=42)}


def test_the_announced_variants():
    by_name = planned(audited(3, 3, 3, 3, 9))
    assert set(by_name) == {"uniform_median", "uniform_p90", "per_layer"}
    assert set(by_name["uniform_median"].ranks.values()) == {4}
    assert set(by_name["uniform_p90"].ranks.values()) == {8}  # 6.6, linearly interpolated
    assert list(by_name["per_layer"].ranks.values()) == [4, 4, 4, 4, 16]
    assert by_name["uniform_p90"].rank_basis == (
        "90th percentile of the directions that hold 0.9 of the energy: 6.6, rounded up to an allowed rank"
    )
    assert all(variant.is_made for variant in by_name.values())


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_makes_what_was_planned_with_the_scale_of_the_probe(rslora):
    import peft
    import torch

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = torch.nn.Linear(48, 64)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(Layer() for _ in range(12))  # layers.1 and layers.11 end alike

    audit = audited(*[3] * 9, 9, 17, 1, rslora=rslora)
    scale = 64 / (32**0.5 if rslora else 32)
    for name, variant in planned(audit, variants=["uniform_median", "per_layer", "uniform_r7"]).items():
        peft_config = peft.LoraConfig(
            target_modules=["q_proj"], use_rslora=rslora, **variant.lora_arguments()
        )
        model = peft.get_peft_model(Model(), peft_config)
        by_name = {
            path.removeprefix("base_model.model."): module
            for path, module in model.named_modules()
            if isinstance(module, peft.tuners.lora.LoraLayer)
        }
        assert {path: module.r["default"] for path, module in by_name.items()} == variant.ranks, name
        assert [module.scaling["default"] for module in by_name.values()] == pytest.approx([scale] * 12)
        trained = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
        assert trained == variant.lora_params


def test_ranks_are_never_rounded_down_and_never_above_the_probe():
    """The predecessor: nearest allowed rank (20 -> 16 of 8, 16, 24 …), and nothing above 32."""
    assert set(planned(audited(20, 20), allowed_ranks=[8, 16, 24])["uniform_median"].ranks.values()) == {24}
    wide = audited(58, 58, r=64)
    assert planned(wide)["uniform_median"].skipped == NO_COMPRESSION
    assert planned(wide)["uniform_median"].same_as == "probe"
    assert set(planned(audited(58, 58, r=128))["per_layer"].ranks.values()) == {64}
    assert planned(audited(6, 6, r=6), allowed_ranks=[8])["per_layer"].same_as == "probe"


def test_equal_configurations_are_one_run():
    by_name = planned(audited(3, 3, 4), arms=["retrain", "truncate"])
    assert by_name["uniform_median"].same_as is None
    assert by_name["uniform_p90"].same_as == "uniform_median"
    assert by_name["per_layer"].same_as == "uniform_median"
    assert by_name["uniform_median.truncate"].same_as is None  # made in another way
    assert by_name["uniform_p90.truncate"].same_as == "uniform_median.truncate"


def test_the_audit_must_have_the_energy_of_the_config():
    with pytest.raises(UsageError, match=r"audited at an energy of 0\.9, but the config says 0\.95"):
        planned(audited(3, 3), energy=0.95)


# ---------------------------------------------------------------- controls


@given(
    ks=st.lists(st.integers(1, 32), min_size=1, max_size=24),
    wide=st.lists(st.integers(1, 32), max_size=24),
    seed=st.integers(0, 2**32 - 1),
)
def test_shuffled_ranks_cost_the_same_and_really_differ(ks, wide, seed):
    rows = [
        row(f"{name}.{i}", spread(k, 32), r=32, shape=shape, alpha=64.0)
        for name, shape, audit in (("q", (64, 48), ks), ("up", (256, 64), wide))
        for i, k in enumerate(audit)
    ]
    asked = config(variants=["per_layer"], controls=["per_layer_shuffled"])
    per_layer, control = plan_variants(report(rows), asked, seed)
    best = sum(
        2 * (len(group) - most) if 2 * most > len(group) else len(group)
        for group in (per_layer_ranks(per_layer, "q"), per_layer_ranks(per_layer, "up"))
        if group
        for most in [max(Counter(group).values())]
    )
    if control.skipped:
        assert control.skipped.startswith("impossible")
        assert 2 * best < len(rows)
        return
    changed = sum(control.ranks[name] != rank for name, rank in per_layer.ranks.items())
    assert changed == best
    assert control.lora_params == per_layer.lora_params
    assert Counter(control.ranks.values()) == Counter(per_layer.ranks.values())


def per_layer_ranks(variant, name):
    return [rank for module, rank in variant.ranks.items() if module.startswith(f"{name}.")]


def test_the_controls():
    by_name = planned(
        audited(*[3] * 6, *[9] * 6),
        arms=["retrain", "truncate"],
        controls=["per_layer_shuffled", "random_directions", "head_only", "rewrite_control"],
    )
    assert {v.name: (v.arm, v.making.name) for v in by_name.values() if v.arm == "control"} == {
        "per_layer_shuffled": ("control", "retrain"),
        "per_layer_shuffled.truncate": ("control", "truncate"),
        "random_directions": ("control", "random_directions"),
        "head_only": ("control", "head"),
        "rewrite_control": ("control", "rotate"),
    }
    assert set(by_name["uniform_median"].ranks.values()) == {8}
    assert set(by_name["random_directions"].ranks.values()) == {8}  # a quarter of 32
    assert set(by_name["rewrite_control"].ranks.values()) == {32}
    assert by_name["rewrite_control"].is_made
    assert by_name["rewrite_control"].reduction == 0
    assert by_name["head_only"].lora_params == 0
    assert by_name["head_only"].reduction == 1
    assert not by_name["head_only"].alphas


def test_controls_that_cannot_be_made_say_why():
    wide = audited(32, 32)
    by_name = planned(wide, controls=["per_layer_shuffled", "random_directions"])
    assert by_name["per_layer_shuffled"].skipped.startswith("impossible")
    assert set(by_name["random_directions"].ranks.values()) == {
        8
    }  # a quarter, though nothing is suggested to go
    none = planned(audited(None, None), controls=["per_layer_shuffled", "random_directions"])
    assert none["per_layer_shuffled"].skipped == none["random_directions"].skipped
    stated = planned(audited(3, 3), variants=["per_layer", "uniform_r2"], controls=["random_directions"])
    assert set(stated["random_directions"].ranks.values()) == {2}


# ---------------------------------------------------------------- the ladder


def test_steps_are_truncations_from_the_largest_down():
    by_name = planned(audited(3, 3, 9), variants=["per_layer"], ladder={"steps": [16, 4, 1]})
    assert list(by_name) == ["per_layer", "ladder.r16", "ladder.r4", "ladder.r1"]
    for name, rank in (("ladder.r16", 16), ("ladder.r4", 4), ("ladder.r1", 1)):
        step = by_name[name]
        assert set(step.ranks.values()) == {rank}
        assert (step.arm, step.making.name, step.is_candidate, step.is_trained) == (
            "ladder", "truncate", False, False,
        )  # fmt: skip


def test_steps_of_energy_give_every_module_its_own_rank():
    by_name = planned(
        audited(3, 9), variants=["per_layer"], ladder={"kind": "per_layer", "steps": [0.9, 0.3]}
    )
    assert list(by_name["ladder.e0.9"].ranks.values()) == [3, 9]
    assert list(by_name["ladder.e0.3"].ranks.values()) == [1, 3]


def test_a_step_that_equals_a_truncated_variant_is_not_made_again():
    by_name = planned(
        audited(3, 3, 3), variants=["uniform_median"], arms=["truncate"], ladder={"steps": [32, 4, 2]}
    )
    assert by_name["ladder.r4"].same_as == "uniform_median.truncate"
    assert by_name["ladder.r32"].skipped == NO_COMPRESSION
    assert by_name["ladder.r2"].is_made


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        ({"steps": [4, 8]}, "in descending order"),
        ({"steps": [8, 8]}, "without duplicates"),
        ({"steps": [8, 0]}, "are ranks"),
        ({"steps": [0.9, 0.5]}, "are ranks"),
        ({"kind": "per_layer", "steps": [16, 8]}, "are shares of the energy"),
        ({"steps": []}, "at least 1 item"),
    ],
)
def test_ladders_that_make_no_sense(ladder, said):
    with pytest.raises(ValueError, match=said):
        config(ladder=ladder)


def test_what_can_no_longer_pass_is_not_retrained_and_what_equals_it_is():
    audit = audited(3, 3, 9)
    chosen = config(variants=["uniform_median", "uniform_r4"], arms=["retrain", "truncate"])
    by_name = {
        one.name: one
        for one in plan_variants(audit, chosen, 42, lost={"uniform_median": "lost", "uniform_median.truncate": "x"})
    }  # fmt: skip
    assert by_name["uniform_median"].stopped_early
    assert by_name["uniform_median"].skipped == "lost"
    assert by_name["uniform_median.truncate"].is_made  # it costs no training
    assert by_name["uniform_r4"].is_made  # the same ranks, and not decided yet
