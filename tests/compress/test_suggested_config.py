"""`gradience audit --suggest-per-layer`, pasted: PEFT trains what the original trained, at the suggested ranks."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft_cases import CASES, Case, config, fresh, llama
from peft_models import save

from gradience import audit_adapter
from gradience.reports.lora_config import lora_config_source

DROPOUT = Case(
    llama, config(target_modules=["q_proj"], lora_dropout=0.25, exclude_modules="model.layers.1..*")
)
REPLICATED = Case(llama, config(target_modules=["q_proj"], layer_replication=[[0, 2], [0, 2]]))
FLAT_PARAMETER = Case(
    CASES["router"].make, config(target_modules=[], target_parameters=["mlp.gate.weight"], r=2)
)
ALL = {**CASES, "dropout": DROPOUT, "replicated": REPLICATED, "a flat parameter alone": FLAT_PARAMETER}


def pasted(source: str) -> LoraConfig:
    names: dict[str, Any] = {}
    exec(source, names)
    return names["config"]


def trained(case: Case, suggested: LoraConfig) -> dict[str, int]:
    """What a training would train: name of the parameter -> its size."""
    suggested.inference_mode = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(fresh(case), suggested)
    return {
        name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad
    }


@pytest.mark.parametrize("name", ALL)
def test_it_trains_what_the_original_trained(name, tmp_path):
    case = ALL[name]
    save(fresh(case), case.config, tmp_path, prepare=case.prepare, dtype=torch.float64)
    report = audit_adapter(tmp_path)
    suggested = pasted(lora_config_source(report))
    before, after = trained(case, LoraConfig.from_pretrained(tmp_path)), trained(case, suggested)
    assert after.keys() == before.keys()
    factors = [key for key in after if ".lora_" in key and not key.endswith(".bias")]
    assert sum(after[key] for key in factors) == report.suggestions.per_layer.params
    assert all(after[key] == before[key] for key in after if key not in factors)
    for field in ("lora_dropout", "bias", "use_rslora", "task_type", "fan_in_fan_out", "lora_bias"):
        assert getattr(suggested, field) == getattr(LoraConfig.from_pretrained(tmp_path), field)


def test_names_cannot_leave_their_strings(tmp_path):
    from factor_samples import random_factors, write

    evil = '"], x=__import__("os").abort(), y=["'
    folder = write(
        tmp_path / "in",
        random_factors(0, (4, 10, 12), decay=0.3),
        modules_to_save=[evil],
        exclude_modules=[evil],
        trainable_token_indices={evil: [1]},
    )
    suggested = pasted(lora_config_source(audit_adapter(folder)))
    assert (
        list(suggested.modules_to_save)
        == list(suggested.exclude_modules)
        == list(suggested.trainable_token_indices)
        == [evil]
    )
