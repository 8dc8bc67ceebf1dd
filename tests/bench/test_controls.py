"""Controls in random directions, on adapters written by PEFT: what they keep of the update, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, set_seed

from gradience import compress_adapter
from gradience.bench.arms.controls.random_directions import write_random_directions
from gradience.errors import UsageError

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


def outputs(base: Path, folder: Path) -> torch.Tensor:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()
    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 20)[None]).logits


@pytest.mark.parametrize("use_dora", [False, True], ids=["lora", "dora"])
def test_as_many_directions_are_the_same_update_in_other_factors(
    base: Path, tmp_path: Path, use_dora: bool
) -> None:
    probe, again = adapter(base, tmp_path / "probe", use_dora=use_dora), tmp_path / "again"
    write_random_directions(probe, probe, again, seed=5)
    before, after = load_file(probe / WEIGHTS), load_file(again / WEIGHTS)
    assert before.keys() == after.keys()
    for name in before:  # a DoRA's magnitudes stay
        assert torch.equal(before[name], after[name]) == ("lora_A" not in name and "lora_B" not in name)
    for name, update in updates(probe).items():
        torch.testing.assert_close(updates(again)[name], update, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(outputs(base, again), outputs(base, probe), rtol=1e-4, atol=1e-4)


def test_fewer_directions_keep_less_than_the_leading_ones(base: Path, tmp_path: Path) -> None:
    probe, leading, random = adapter(base, tmp_path / "probe"), tmp_path / "leading", tmp_path / "drawn"
    compress_adapter(probe, leading, rank=3)
    write_random_directions(probe, leading, random, seed=5)
    for name, update in updates(probe).items():
        in_random_directions = updates(random)[name]
        assert torch.linalg.matrix_rank(in_random_directions, rtol=1e-4) == 3
        assert (update - in_random_directions).norm() > (
            update - updates(leading)[name]
        ).norm()  # Eckart and Young


def test_the_seed_decides_the_directions(base: Path, tmp_path: Path) -> None:
    probe = adapter(base, tmp_path / "probe")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_random_directions(probe, probe, tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / WEIGHTS).read_bytes() for name in "abc")
    assert a == b != c


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
        write_random_directions(probe, smaller, tmp_path / "out", seed=1)
    assert caught.value.code == "control-kind"
    assert not (tmp_path / "out").exists()
