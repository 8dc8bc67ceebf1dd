"""From an audit to the adapters that are compared: every module explicit, the scale held, nothing run twice."""

import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audit_sample import report, row
from bench_process import CONFIG, NO_GATE
from bench_sample import SEEDS, bench, three_seeds
from bench_sample import config as sample_config
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft_kinds import KINDS
from peft_models import Saved, peft_updates, save
from raising import raises
from safetensors.torch import load_file, save_file
from tiny_bench import ROLES, Watcher, bert, llama, sums
from transformers import AutoModelForCausalLM, set_seed

from gradience import audit_adapter, compress_adapter
from gradience.bench.arms import RANDOM_DIRECTIONS, REWRITE_CONTROL, ArmSource, write_random_directions
from gradience.bench.config import BenchConfig
from gradience.bench.plan import NO_COMPRESSION, plan_variants
from gradience.bench.run.seed import ScaleChanged, SeedRun, require_same_scale
from gradience.bench.verdict.aggregate import aggregate
from gradience.bench.verdict.evidence import at_ceiling, seed_notes
from gradience.cli.bench import code_of
from gradience.errors import UsageError
from gradience.plan.modules import Ranks
from gradience.reports.bench import BenchAggregate
from gradience.reports.bench_plan import allowed_losses
from gradience.reports.distill import DistillReport
from gradience.tasks.base import ClassificationTask
from gradience.tasks.examples import LabeledExample, content_id, prepare


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
    variants = planned(audit, variants=["uniform_median", "per_layer", "uniform_r7"])
    first = next(iter(variants["per_layer"].ranks))
    without = replace(variants["per_layer"], ranks=variants["per_layer"].ranks | {first: 0})
    for name, variant in (variants | {"without": without}).items():
        peft_config = peft.LoraConfig(
            target_modules=["q_proj"], use_rslora=rslora, **variant.lora_arguments()
        )
        model = peft.get_peft_model(Model(), peft_config)
        by_name = {
            path.removeprefix("base_model.model."): module
            for path, module in model.named_modules()
            if isinstance(module, peft.tuners.lora.LoraLayer)
        }
        kept = {path: rank for path, rank in variant.ranks.items() if rank}
        assert {path: module.r["default"] for path, module in by_name.items()} == kept, name
        assert [module.scaling["default"] for module in by_name.values()] == pytest.approx(
            [scale] * len(kept)
        )
        trained = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n)
        assert variant is without or trained == variant.lora_params


def test_ranks_are_never_rounded_down_and_never_above_the_probe():
    """The original project: nearest allowed rank (20 -> 16 of 8, 16, 24 …), and nothing above 32."""
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


def test_a_step_that_equals_a_truncated_variant_is_not_made_again():
    by_name = planned(
        audited(3, 3, 3), variants=["uniform_median"], arms=["truncate"], ladder={"steps": [32, 4, 2]}
    )
    assert by_name["ladder.r4"].same_as == "uniform_median.truncate"
    assert by_name["ladder.r32"].skipped == NO_COMPRESSION
    assert by_name["ladder.r2"].is_made


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


# ---------------------------------------------------------------- Controls in random directions, on adapters


WEIGHTS = "adapter_model.safetensors"


def adapter(base: Path, folder: Path, *, use_dora: bool = False) -> Path:
    """PEFT's file of an adapter whose B is not zero."""
    set_seed(1)
    config = LoraConfig(
        r=8, lora_alpha=16, target_modules=["q_proj", "down_proj"], use_dora=use_dora, task_type="CAUSAL_LM"
    )
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    return folder


def updates(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / WEIGHTS)
    return {
        name: tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
        for name in tensors
        if "lora_A" in name
    }


def ranks_of(folder: Path, most: int = 8) -> Ranks:
    return {layer.name: min(layer.r, most) for layer in audit_adapter(folder).layers}


def outputs(base: Path, folder: Path) -> torch.Tensor:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 20)[None]).logits


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_as_many_directions_are_the_same_update_in_other_factors(base, tmp_path, use_dora):
    probe, again = adapter(base, tmp_path / "probe", use_dora=use_dora), tmp_path / "again"
    write_random_directions(probe, probe, ranks_of(probe), again, seed=5)
    before, after = load_file(probe / WEIGHTS), load_file(again / WEIGHTS)
    assert before.keys() == after.keys()
    for name in before:  # a DoRA's magnitudes stay
        assert torch.equal(before[name], after[name]) == ("lora_A" not in name and "lora_B" not in name)
    for name, update in updates(probe).items():
        torch.testing.assert_close(updates(again)[name], update, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs(base, again), outputs(base, probe), rtol=1e-4, atol=1e-4)


def test_fewer_directions_of_a_dora_are_refused_before_anything_is_written(base, tmp_path):
    probe, smaller = adapter(base, tmp_path / "probe", use_dora=True), tmp_path / "smaller"
    smaller.mkdir()
    cut = {
        name: (value[:3] if "lora_A" in name else value[:, :3] if "lora_B" in name else value).contiguous()
        for name, value in load_file(probe / WEIGHTS).items()
    }
    save_file(cut, smaller / WEIGHTS)
    with raises(UsageError, "control-kind", "no random direction"):
        write_random_directions(probe, smaller, ranks_of(probe, 3), tmp_path / "out", seed=1)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- every kind of module, read by PEFT

PLACES = [
    "embedding",
    "convolutions",
    "experts-and-router",
    "experts-unswapped",
    "experts-rank-pattern",
    "rslora",
]


def probe_of(kind: str, folder: Path) -> tuple[Saved, ArmSource]:
    model, config, *_ = KINDS[kind]
    torch.manual_seed(7)
    saved = save(model(), config, folder)
    return saved, ArmSource(folder, audit_adapter(folder), seed=5)


def loaded_updates(kind: str, folder: Path) -> dict:
    """ΔW of every module and expert, by PEFT in float64."""
    torch.manual_seed(7)
    return peft_updates(PeftModel.from_pretrained(KINDS[kind][0](), folder).double())


def assert_projections(probe: Saved, after: dict, ranks: Ranks) -> None:
    """Each expert's s·B·P·A has a projection P of the rank that was asked for: with X = s·B·P·A, X·(s·B·A)⁺·X = X."""
    assert after.keys() == probe.updates.keys()
    for (module, expert), update in probe.updates.items():
        projected = after[module, expert]
        left, values, right = np.linalg.svd(update)
        rank, wanted = int((values > 1e-9 * values[0]).sum()), ranks[module]
        inverse = np.linalg.pinv(update, rcond=1e-9)
        np.testing.assert_allclose(projected @ inverse @ projected, projected, rtol=0, atol=1e-4 * values[0])
        assert np.linalg.matrix_rank(projected, rtol=1e-5) == min(wanted, rank)
        if rank > wanted:  # and those directions are not the leading ones
            leading = (left[:, :wanted] * values[:wanted]) @ right[:wanted]
            assert np.abs(projected - leading).max() > 1e-2 * values[0]


@pytest.mark.filterwarnings("ignore")  # PEFT warns of patterns for parameters
@pytest.mark.parametrize("kind", PLACES)
def test_the_rewrite_control_is_the_same_update_for_peft(kind, tmp_path):
    probe, source = probe_of(kind, tmp_path / "probe")
    REWRITE_CONTROL.arm.make(source, ranks_of(source.probe), tmp_path / "rewrite_control")
    after = loaded_updates(kind, tmp_path / "rewrite_control")
    assert after.keys() == probe.updates.keys()
    for place, update in probe.updates.items():
        np.testing.assert_allclose(after[place], update, rtol=0, atol=1e-5 * np.abs(update).max())
    changed = load_file(tmp_path / "rewrite_control" / WEIGHTS)
    for name, factor in load_file(source.probe / WEIGHTS).items():
        assert not torch.equal(changed[name], factor), f"{name} is the probe's own"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PLACES)
def test_random_directions_of_every_module_are_projections_for_peft(kind, tmp_path):
    probe, source = probe_of(kind, tmp_path / "probe")
    RANDOM_DIRECTIONS.arm.make(source, ranks_of(source.probe, 2), tmp_path / "random")
    after = loaded_updates(kind, tmp_path / "random")
    assert_projections(probe, after, ranks_of(source.probe, 2))


@pytest.mark.filterwarnings("ignore")
def test_zeros_and_folded_scales_of_the_truncated_adapter_change_nothing(tmp_path):
    """One rank and one scale on disk, although both differ between modules."""
    probe, source = probe_of("patterns", tmp_path / "probe")
    report = compress_adapter(source.probe, tmp_path / "uniform", energy=0.7, encoding="uniform")
    ranks = {row.name: row.new_rank for row in report.modules}
    assert len(set(ranks.values())) > 1
    write_random_directions(source.probe, tmp_path / "uniform", ranks, tmp_path / "random", seed=5)
    after = loaded_updates("patterns", tmp_path / "random")
    assert_projections(probe, after, ranks)


def test_a_grouped_convolution_is_refused(tmp_path):
    _, source = probe_of("grouped", tmp_path / "probe")
    with raises(UsageError, "control-kind", "grouped convolution"):
        REWRITE_CONTROL.arm.make(source, ranks_of(source.probe), tmp_path / "rewrite_control")
    assert not (tmp_path / "rewrite_control").exists()


# ---------------------------------------------------------------- Rank and scale are not changed together: a


PROBE = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": ["q", "v"]}
MODULES = {"layers.0.q": 8, "layers.0.v": 4}
PATTERNS = {"rank_pattern": {"^layers.0.v": 4}, "alpha_pattern": {"^layers.0.v": 8}}


def written(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(PROBE | changes))
    return folder


SCALES: dict[str, tuple[dict[str, Any], bool]] = {
    "the scale of every module": ({"r": 8, "lora_alpha": 16} | PATTERNS, True),
    "alpha left as it was": ({"r": 8} | PATTERNS, False),
    "one module left behind": ({"r": 8, "lora_alpha": 16, "rank_pattern": {"^layers.0.v": 4}}, False),
    "rsLoRA with the same numbers": ({"r": 8, "lora_alpha": 16, "use_rslora": True} | PATTERNS, False),
}


@pytest.mark.parametrize("case", SCALES)
def test_the_scale_of_the_probe_is_held(case, tmp_path):
    changes, held = SCALES[case]
    probe, adapter = written(tmp_path / "probe"), written(tmp_path / "adapter", **changes)
    with (
        nullcontext() if held else pytest.raises(ScaleChanged, match="its scale α/r differs from the probe's")
    ):
        require_same_scale(probe, adapter, MODULES)
    require_same_scale(probe, adapter, dict.fromkeys(MODULES, 0))  # a module without its LoRA has no scale


# ---------------------------------------------------------------- Controls that do not come to what they


CONTROLS = {"controls": ["per_layer_shuffled", "random_directions", "rewrite_control"], "arms": ["truncate"]}


def over_seeds(**lost: int | tuple[int, ...]) -> BenchAggregate:
    """Three seeds of 200 examples. lost: net, by control and by seed; a variant that is not named loses nothing."""
    asked = sample_config(compression=CONTROLS)
    by_seed: Any = {
        seed: {
            name: (number if isinstance(number, int) else number[place], 0) for name, number in lost.items()
        }
        for place, seed in enumerate(SEEDS)
    }
    return aggregate([bench(seed, by_seed[seed], asked=asked) for seed in SEEDS])


def rows_of(name: str, text: str) -> list[str]:
    """The lines of a screen or a page that begin with `name`."""
    lines = [line.lstrip(" |").replace("`", "") for line in text.splitlines()]
    return [line for line in lines if line.startswith(f"{name} ")]


def test_a_control_that_must_fail_and_passes_on_all_seeds_makes_the_run_inconclusive():
    report = over_seeds(random_directions=3)
    assert report.status == "INCONCLUSIVE"
    assert report.reasons == (
        "random_directions must fail but passes on all 3 seeds: the task does not distinguish good adapters from bad"
        " ones",
    )
    assert report.best is None
    assert int(code_of(report.status)) == 8
    for text in (report.to_text(width=100), report.to_markdown().replace("\\_", "_")):
        assert "the task does not distinguish good adapters from bad ones" in " ".join(text.split())
        assert "not as expected" in text
        assert "Smallest variant that passes" not in text


@pytest.mark.parametrize("lost", [(50, 3, 3), (3, 3, 50), (50, 50, 50)])
def test_a_control_that_fails_on_one_seed_has_seen_a_loss(lost):
    report = over_seeds(random_directions=lost)
    assert report.status == "PASS"
    assert report.best is not None
    assert "as expected" in report.to_text()


def test_on_one_seed_it_is_a_note():
    run = bench(42, {"random_directions": (3, 0)}, asked=sample_config(compression=CONTROLS, seeds=[42]))
    (note,) = seed_notes(run.probe, run.variants, run.policy)
    assert note.startswith("random_directions must fail but passes on this seed")
    assert run.status == "PASS"
    alone = aggregate([run])
    assert alone.status == "PASS"
    assert "random_directions must fail but passes on the only seed" in alone.notes


@pytest.mark.parametrize(
    ("name", "lost", "shown"),
    [
        ("random_directions", 50, "as expected"),
        ("random_directions", 0, "not as expected"),
        ("rewrite_control", 0, "as expected"),
        ("rewrite_control", 50, "not as expected"),
        ("per_layer_shuffled.truncate", 50, "for comparison"),
        ("per_layer_shuffled.truncate", 0, "for comparison"),
    ],
)
def test_a_control_s_row_never_says_pass(name, lost, shown):
    run = bench(42, {name: (lost, 0)}, asked=sample_config(compression=CONTROLS, seeds=[42]))
    report = aggregate([run])
    texts = (run.to_text(width=200), report.to_text(width=200))
    for text in (*texts, run.to_markdown(), report.to_markdown()):
        rows = rows_of(name, text)
        assert any(shown in row for row in rows)
        assert not any(status in row for status in ("PASS", "FAIL") for row in rows)


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_at_the_ceiling_no_more_are_wrong_than_may_be_lost(n, wrong):
    if wrong <= n:
        assert at_ceiling(n - wrong, n, Fraction(1, 40)) == (wrong <= allowed_losses(n, Fraction(1, 40)))


def test_a_probe_at_its_ceiling_is_a_warning():
    high = bench(42, correct=195)
    (note,) = seed_notes(high.probe, high.variants, high.policy)
    assert note.startswith("warning: the probe is at its ceiling (195 / 200 correct)")
    assert not seed_notes(bench(42, correct=194).probe, (), high.policy)
    assert any(
        "at its ceiling on 1 of 3 seeds" in note for note in aggregate([high, *three_seeds()[1:]]).notes
    )


# ---------------------------------------------------------------- The arm `distill` and its control


DISTILLS = {
    "variants": ["uniform_r1"],
    "arms": ["truncate", "distill"],
    "controls": ["rewrite_control", "probe_distilled"],
    "distillation": {"lr": 1e-2, "steps": 1},
}
VALUES: dict[str, Any] = CONFIG | {
    "train": CONFIG["train"] | {"max_steps": 40, "save_steps": None},
    "compression": DISTILLS,
}


def sentences(count: int = 60) -> ClassificationTask:
    """Good or bad, and no text twice."""
    items = []
    for place in range(count):
        text = f"{'good' if place % 2 else 'bad'} film {place % 20} {place // 20}"
        items.append(LabeledExample(content_id(text, exact=True), text, place % 2, ROLES[place % 5]))
    return ClassificationTask(name="sentences", examples=prepare(items), label_names=("bad", "good"))


def distill_config(kind: str, folder: Path, **compression: Any) -> BenchConfig:
    profile = {"seqcls": "sentences", "causal_lm": "sums"}[kind]
    lora = VALUES["lora"] | ({"target_modules": ["q_proj", "down_proj"]} if kind == "causal_lm" else {})
    return BenchConfig.model_validate(
        VALUES
        | {"lora": lora}
        | {"model": {"name": str(folder), "type": kind}, "task": {"profile": profile, "probe_gate": NO_GATE}}
        | {"compression": DISTILLS | compression}
    )


@pytest.mark.parametrize("kind", ["seqcls", "causal_lm"])
def test_the_truncated_probe_comes_closer_to_the_probe(kind, tmp_path):
    base = (bert if kind == "seqcls" else llama)(tmp_path / "base")
    task = sentences() if kind == "seqcls" else sums()
    folder, watcher = tmp_path / "run", Watcher()
    facts = SeedRun(distill_config(kind, base), task, 42, folder, watcher).run()
    by_name = {outcome.planned.name: outcome for outcome in facts.outcomes}
    assert {name: outcome.error for name, outcome in by_name.items() if outcome.error} == {}
    assert set(by_name) == {"uniform_r1.truncate", "uniform_r1.distill", "rewrite_control", "probe_distilled"}
    stages = iter(watcher.stages)
    order = [
        "rewrite_control/eval",
        "uniform_r1.distill/adapter",
        "probe_distilled/adapter",
        "uniform_r1.distill/eval",
    ]
    assert all(stage in stages for stage in order)
    distilled = by_name["uniform_r1.distill"].adapter
    report = DistillReport.read(distilled.folder / "distill_report.json")
    assert report.adapter_sha256 == by_name["uniform_r1.truncate"].adapter.sha256
    assert report.teacher_sha256 == facts.probe.adapter.sha256
    assert report.output_sha256 == distilled.sha256
    assert report.planned_steps == 40
    assert report.improved
    assert report.after.kl_per_token < report.before.kl_per_token
    assert distilled.lora_params == by_name["uniform_r1.truncate"].adapter.lora_params
    left = {path.name for path in (folder / "uniform_r1.distill/adapter").iterdir()}
    assert left == {"adapter", "manifest.json", "parameters.json", "weights_header.json"}
    control = DistillReport.read(folder / "probe_distilled/adapter/adapter/distill_report.json")
    assert control.before.kl_per_token == pytest.approx(0, abs=1e-6)
    assert control.trained_params == control.teacher_params

    again = Watcher()
    SeedRun(distill_config(kind, base), task, 42, folder, again).run()
    assert again.stages == watcher.stages
    assert again.notes == []
