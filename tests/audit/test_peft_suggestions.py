"""What the audit suggests, given to PEFT: exactly these ranks and scales on exactly these modules."""

from __future__ import annotations

import json
import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft_models import Convolutions, gpt2, llama, mixtral, save
from torch import nn

from gradience import audit_adapter


def ranks_and_scales(model) -> dict[str, tuple[int, float]]:
    applied = {}
    for name, layer in model.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            parameter = getattr(layer, "parameter_name", None)
            full = f"{name.replace('.base_layer', '')}.{parameter}" if parameter else name
            applied[full] = (layer.r["default"], layer.scaling["default"])
    return applied


def apply(report, base, original: LoraConfig, **changes: Any) -> dict[str, tuple[int, float]]:
    """A LoraConfig with the suggested patterns, as a person would paste them, on a fresh model."""
    suggestion = report.suggestions.per_layer
    options = {
        "target_modules": original.target_modules,
        "target_parameters": original.target_parameters,
        "fan_in_fan_out": original.fan_in_fan_out,
        "use_rslora": original.use_rslora,
        "r": suggestion.r,
        "lora_alpha": suggestion.lora_alpha,
        "rank_pattern": json.loads(json.dumps(suggestion.rank_pattern)),
        "alpha_pattern": json.loads(json.dumps(suggestion.alpha_pattern)),
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        applied = ranks_and_scales(get_peft_model(base, LoraConfig(**options | changes)))
    about_patterns = [str(one.message) for one in caught if "_pattern" in str(one.message)]
    if original.target_parameters:
        # PEFT 0.21 looks for its keys among modules only: it calls those of parameters ignored, and applies them.
        about_patterns = [text for text in about_patterns if "q_proj" in text]
    assert about_patterns == []
    return applied


def uneven(model) -> None:
    """Updates that need another rank in every module: k directions of equal size in the k-th."""
    index = 0
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_B" in name:
            parameter.data[:, 1 + index % parameter.shape[1] :] = 0
            index += 1


CASES = {
    "llama": (lambda: llama(12), {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 8}),
    "rslora": (lambda: llama(3), {"target_modules": "all-linear", "r": 6, "use_rslora": True}),
    "patterns": (
        lambda: llama(12),
        {
            "target_modules": ["q_proj", "v_proj"],
            "r": 4,
            "rank_pattern": {r"layers\.1\.self_attn\.q_proj": 7, "v_proj": 5},
            "alpha_pattern": {r"layers\.11\.self_attn\.v_proj": 3},
        },
    ),
    "gpt2": (gpt2, {"target_modules": ["wte", "c_attn", "c_proj"], "fan_in_fan_out": True, "r": 6}),
    "convolutions": (Convolutions, {"target_modules": ["three", "one", "line", "solid", "grouped"], "r": 6}),
    "experts": (
        mixtral,
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["experts.gate_up_proj", "experts.down_proj"],
            "r": 4,
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("meta", [False, True], ids=["cpu", "meta"])
def test_peft_applies_the_patterns_to_exactly_these_modules(case, meta, tmp_path):
    make, options = CASES[case]
    lora = LoraConfig(**({"lora_alpha": 12} | options))
    saved = save(make(), lora, tmp_path, prepare=uneven)
    before = ranks_and_scales(saved.model)
    report = audit_adapter(tmp_path)
    pattern = report.rank_pattern()
    assert len(pattern) == len(before)
    assert len(set(pattern.values())) > 1 or case == "experts"
    if meta:
        with torch.device("meta"):
            base: nn.Module = make()
    else:
        base = make()
    after = apply(report, base, lora)
    assert after.keys() == before.keys() == {row.name for row in report.layers}
    chosen = {key[1:].replace("\\", ""): rank for key, rank in pattern.items()}
    assert {name: rank for name, (rank, _) in after.items()} == chosen
    for name, (_, scale) in after.items():
        assert scale == pytest.approx(before[name][1], rel=1e-12)
