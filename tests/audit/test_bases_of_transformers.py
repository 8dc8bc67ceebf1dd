"""Bases that transformers saves, with adapters that PEFT makes: every weight is found, DoRA's update is the merge's."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from peft_models import bert, gpt2, gpt_oss, llama, mixtral, qwen_moe, t5

from gradience import audit_adapter
from gradience.cli.app import run

SIDES = {"vocab_size": 48, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NARROW = {**SIDES, "num_key_value_heads": 1, "intermediate_size": 24}


def causal(name, **sides):
    """A tiny random model of this architecture."""
    config = getattr(transformers, f"{name}Config")(**sides)
    return lambda: getattr(transformers, f"{name}ForCausalLM")(config)


LINEAR = {"target_modules": "all-linear"}
EXPERTS = {
    "target_modules": ["q_proj"],
    "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
}
BASES = {
    "llama": (llama, LINEAR),
    "llama-head": (llama, {"target_modules": ["lm_head", "embed_tokens"]}),
    "mistral": (causal("Mistral", **NARROW), LINEAR),
    "qwen2": (causal("Qwen2", **NARROW), LINEAR),
    "qwen3": (causal("Qwen3", **NARROW, head_dim=8), LINEAR),
    "gemma-tied-head": (
        causal("Gemma", **NARROW, head_dim=8),
        {"target_modules": ["q_proj", "down_proj", "lm_head"]},
    ),
    "phi3": (causal("Phi3", **NARROW, pad_token_id=0), LINEAR),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_fc", "wte"], "fan_in_fan_out": True}),
    "bert": (bert, LINEAR),
    "t5": (t5, LINEAR),
    "mixtral": (mixtral, EXPERTS),
    "qwen2-moe": (qwen_moe, EXPERTS),
    "gpt-oss": (gpt_oss, {"target_modules": [], "target_parameters": EXPERTS["target_parameters"]}),
    "falcon": (causal("Falcon", **SIDES), LINEAR),
    "gpt-neox": (
        causal("GPTNeoX", **SIDES, intermediate_size=24),
        {"target_modules": ["query_key_value", "lm_head"]},
    ),
}


def adapted(base, path, **options):
    """The model of PEFT with factors that are not 0, saved; its base beside it."""
    base.save_pretrained(path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, lora_alpha=4, **options))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_magnitude" in name:
                    parameter.mul_(1 + 0.1 * torch.rand(parameter.shape))
                elif "lora_" in name:
                    parameter.copy_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(path / "adapter", save_embedding_layers=False)
    return model


@pytest.mark.parametrize("name", BASES)
def test_every_weight_of_a_saved_base_is_found(name, tmp_path):
    make, options = BASES[name]
    torch.manual_seed(0)
    base = make()
    adapted(base, tmp_path, **options)
    report = audit_adapter(tmp_path / "adapter", base=tmp_path / "base")
    block = report.base
    assert block.not_compared == ()
    assert len(block.modules) == len(report.layers) > 0
    for layer, module in zip(report.layers, block.modules, strict=True):
        try:
            weight = base.get_parameter(layer.name)
        except AttributeError:
            weight = base.get_submodule(layer.name).weight
        weight = weight.detach().double().numpy()
        weight = weight if layer.expert is None else weight[layer.expert]
        assert module.weight_norm == pytest.approx(np.linalg.norm(weight), rel=1e-6)
        assert module.weight_sigma_max == pytest.approx(np.linalg.norm(weight, 2), rel=1e-2)


@pytest.mark.parametrize(
    ("make", "options"),
    [(llama, LINEAR), (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True})],
    ids=["linear", "transposed"],
)
def test_the_update_of_dora_is_what_the_merge_of_peft_adds(make, options, tmp_path, capsys):
    torch.manual_seed(0)
    base = make()
    model = adapted(base, tmp_path, use_dora=True, **options)
    block = audit_adapter(tmp_path / "adapter", base=tmp_path / "base").base
    assert block.not_compared == ()
    merged = copy.deepcopy(model).merge_and_unload()
    for module in block.modules:
        before, after = (
            each.get_submodule(module.name).weight.detach().double().numpy() for each in (base, merged)
        )
        update = after - before
        assert module.dora.fro_norm == pytest.approx(np.linalg.norm(update), rel=1e-5)
        assert module.dora.sigma_max == pytest.approx(np.linalg.norm(update, 2), rel=1e-2)
        assert module.frobenius == pytest.approx(np.linalg.norm(update) / np.linalg.norm(before), rel=1e-5)
        (wrapper,) = model.get_submodule(f"base_model.model.{module.name}").lora_magnitude_vector.values()
        start = np.linalg.norm(before, axis=0 if options.get("fan_in_fan_out") else 1)
        moved = np.linalg.norm(wrapper.weight.detach().double().numpy() - start) / np.linalg.norm(start)
        assert module.dora.magnitude == pytest.approx(moved, rel=1e-5)
    assert run(["audit", str(tmp_path / "adapter"), "--base-model", str(tmp_path / "base")]) == 0
    assert "‖m − m₀‖/‖m₀‖" in capsys.readouterr().out
