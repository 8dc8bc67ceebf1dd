"""Controls in random directions, on adapters written by PEFT: what they keep of the update, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft_kinds import KINDS
from peft_models import Saved, peft_updates, save
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, set_seed

from gradience import audit_adapter, compress_adapter
from gradience.bench.arms.arm import ArmSource
from gradience.bench.arms.controls import RANDOM_DIRECTIONS, REWRITE_CONTROL, write_random_directions
from gradience.errors import UsageError
from gradience.plan.modules import Ranks

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
def test_as_many_directions_are_the_same_update_in_other_factors(
    base: Path, tmp_path: Path, use_dora: bool
) -> None:
    probe, again = adapter(base, tmp_path / "probe", use_dora=use_dora), tmp_path / "again"
    write_random_directions(probe, probe, ranks_of(probe), again, seed=5)
    before, after = load_file(probe / WEIGHTS), load_file(again / WEIGHTS)
    assert before.keys() == after.keys()
    for name in before:  # a DoRA's magnitudes stay
        assert torch.equal(before[name], after[name]) == ("lora_A" not in name and "lora_B" not in name)
    for name, update in updates(probe).items():
        torch.testing.assert_close(updates(again)[name], update, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs(base, again), outputs(base, probe), rtol=1e-4, atol=1e-4)


def test_fewer_directions_of_a_dora_are_refused_before_anything_is_written(
    base: Path, tmp_path: Path
) -> None:
    probe, smaller = adapter(base, tmp_path / "probe", use_dora=True), tmp_path / "smaller"
    smaller.mkdir()
    cut = {
        name: (value[:3] if "lora_A" in name else value[:, :3] if "lora_B" in name else value).contiguous()
        for name, value in load_file(probe / WEIGHTS).items()
    }
    save_file(cut, smaller / WEIGHTS)
    with pytest.raises(UsageError, match="no random direction") as caught:
        write_random_directions(probe, smaller, ranks_of(probe, 3), tmp_path / "out", seed=1)
    assert caught.value.code == "control-kind"
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
def test_the_rewrite_control_is_the_same_update_for_peft(kind: str, tmp_path: Path) -> None:
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
def test_random_directions_of_every_module_are_projections_for_peft(kind: str, tmp_path: Path) -> None:
    probe, source = probe_of(kind, tmp_path / "probe")
    RANDOM_DIRECTIONS.arm.make(source, ranks_of(source.probe, 2), tmp_path / "random")
    after = loaded_updates(kind, tmp_path / "random")
    assert_projections(probe, after, ranks_of(source.probe, 2))


@pytest.mark.filterwarnings("ignore")
def test_zeros_and_folded_scales_of_the_truncated_adapter_change_nothing(tmp_path: Path) -> None:
    """One rank and one scale on disk, although both differ between modules."""
    probe, source = probe_of("patterns", tmp_path / "probe")
    report = compress_adapter(source.probe, tmp_path / "uniform", energy=0.7, encoding="uniform")
    ranks = {row.name: row.new_rank for row in report.modules}
    assert len(set(ranks.values())) > 1
    write_random_directions(source.probe, tmp_path / "uniform", ranks, tmp_path / "random", seed=5)
    after = loaded_updates("patterns", tmp_path / "random")
    assert_projections(probe, after, ranks)


def test_a_grouped_convolution_is_refused(tmp_path: Path) -> None:
    _, source = probe_of("grouped", tmp_path / "probe")
    with pytest.raises(UsageError, match="grouped convolution") as caught:
        REWRITE_CONTROL.arm.make(source, ranks_of(source.probe), tmp_path / "rewrite_control")
    assert caught.value.code == "control-kind"
    assert not (tmp_path / "rewrite_control").exists()
