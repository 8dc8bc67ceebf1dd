"""DoRA is compressed with its base at hand, or refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from compressing import compress
from peft import PeftModel
from peft_cases import LINEAR, config, load_strict
from peft_models import (
    bert,
    gpt2,
    llama,
    save,
    stored_tensors,
)
from safetensors.torch import load_file, save_file

from gradience import compress_adapter
from gradience.errors import InputError
from gradience.plan.criteria import ToRank


def dora(base, folder: Path, **options) -> tuple[Path, Path]:
    """A DoRA adapter and its base model on disk."""
    base.save_pretrained(folder / "base")
    save(base, config(**({"target_modules": LINEAR, "use_dora": True} | options)), folder / "in")
    return folder / "in", folder / "base"


def layers(model: PeftModel) -> dict[str, torch.Tensor]:
    """W′ of every DoRA layer, by letting PEFT merge them."""
    return {
        name: module.weight.detach().clone()
        for name, module in model.merge_and_unload().named_modules()
        if hasattr(module, "weight") and module.weight is not None
    }


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (llama, {}),
        (gpt2, {"target_modules": ["c_attn", "c_fc", "c_proj"], "fan_in_fan_out": True}),
        (bert, {"target_modules": ["query", "dense"]}),
    ],
    ids=["llama", "gpt2", "bert-prefixed"],
)
@pytest.mark.parametrize("encoding", ["uniform", "folded"])
def test_dora_with_its_base(make, options, encoding, tmp_path):
    torch.manual_seed(7)
    base = make()
    adapter, weights = dora(base, tmp_path, **options)
    report = compress(adapter, tmp_path / "out", ToRank(2), encoding=encoding, base_model=weights)

    def fresh():
        torch.manual_seed(7)
        return make()

    plain = {
        name: module.weight.detach().double()
        for name, module in fresh().named_modules()
        if hasattr(module, "weight")
    }
    before, after = layers(load_strict(fresh(), adapter)), layers(load_strict(fresh(), tmp_path / "out"))
    for row in report.modules:
        lost = torch.linalg.norm(before[row.name] - after[row.name])
        done = torch.linalg.norm(before[row.name] - plain[row.name])
        assert row.output_error == pytest.approx(float(lost / done), rel=1e-5)
        assert 0 < row.output_error < 1
    stored, kept = stored_tensors(adapter), stored_tensors(tmp_path / "out")
    magnitudes = [name for name in stored if "magnitude" in name]
    assert magnitudes
    assert all(np.array_equal(stored[name], kept[name]) for name in magnitudes)


def refused(adapter: Path, output: Path, **options) -> InputError:
    with pytest.raises(InputError) as refusal:
        compress(adapter, output, ToRank(2), **options)
    return refusal.value


def test_dora_refusals(tmp_path):
    adapter, weights = dora(llama(), tmp_path)
    out = tmp_path / "out"
    error = refused(adapter, out)
    assert error.code == "dora"
    assert "--base-model" in error.hint
    assert refused(adapter, out, base_model=tmp_path / "nowhere").code == "no-base-weights"
    stronger = refused(adapter, out, base_model=weights, strength=0.8)
    assert (stronger.code, "not proportional" in str(stronger)) == ("dora", True)
    other = tmp_path / "other"
    torch.manual_seed(7)
    bert().save_pretrained(other)
    assert refused(adapter, out, base_model=other).code == "base-mismatch"
    shutil.rmtree(other)
    tensors = load_file(weights / "model.safetensors")
    other.mkdir()
    wrong = {name: tensor.T.contiguous() if "down" in name else tensor for name, tensor in tensors.items()}
    save_file(wrong, other / "model.safetensors")
    assert refused(adapter, out, base_model=other).code == "base-mismatch"
    packed = {name: tensor.to(torch.uint8) if "proj" in name else tensor for name, tensor in tensors.items()}
    save_file(packed, other / "model.safetensors")
    assert refused(adapter, out, base_model=other).code == "base-quantized"
    gptq = {name.replace("proj.weight", "proj.qweight"): tensor for name, tensor in tensors.items()}
    save_file(gptq, other / "model.safetensors")
    assert refused(adapter, out, base_model=other).code == "base-quantized"
    (other / "model.safetensors.index.json").write_text("[]")
    assert refused(adapter, out, base_model=other).code == "no-base-weights"
    assert not out.exists()


def test_dora_on_a_sharded_base(tmp_path):
    torch.manual_seed(7)
    base = llama()
    base.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    adapter, weights = dora(base, tmp_path)
    one = compress(adapter, tmp_path / "one", ToRank(2), base_model=weights)
    many = compress(adapter, tmp_path / "many", ToRank(2), base_model=tmp_path / "shards")
    assert [row.output_error for row in one.modules] == [row.output_error for row in many.modules]


def test_without_dora_the_base_model_only_names_the_architecture(tmp_path):
    base = llama()
    base.config.save_pretrained(tmp_path / "base")
    save(base, config(target_modules=LINEAR), tmp_path / "in")
    fields = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "base" / "config.json").write_text(
        json.dumps({**fields, "architectures": ["LlamaForCausalLM"]})
    )
    report = compress(tmp_path / "in", tmp_path / "out", ToRank(2), base_model=tmp_path / "base")
    assert report.architecture == "LlamaForCausalLM"
    with pytest.raises(InputError) as refusal:
        compress(tmp_path / "in", tmp_path / "no", ToRank(2), base_model=tmp_path / "nowhere")
    assert refusal.value.code == "no-model-config"
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("text", "code"), [("{", "bad-json"), ("[]", "bad-config"), ('{"a": NaN}', "bad-json")]
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_damaged_config_of_the_base_that_was_named_is_refused(tmp_path, text, code, dry_run):
    base = llama()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(text)
    save(base, config(target_modules=LINEAR), tmp_path / "in")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "base" / "config.json"))) as refusal:
        compress_adapter(
            tmp_path / "in", tmp_path / "out", rank=2, base_model=tmp_path / "base", dry_run=dry_run
        )
    assert refusal.value.code == code
    assert not (tmp_path / "out").exists()
