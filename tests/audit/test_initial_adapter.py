"""Adapters whose start changed the base, saved as plain LoRA by PEFT: judged by its merge."""

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft_models import TARGETS, TOKENS, corda, gpt2, llama, lora_ga, plain

from gradience import audit_adapter

RANK, SCALE = 4, 2.0


PISSA: dict[str, Any] = {"init_lora_weights": "pissa", "target_modules": TARGETS}
STARTS = {
    "pissa": (llama, plain, PISSA),
    "pissa-fast": (llama, plain, {**PISSA, "init_lora_weights": "pissa_niter_4"}),
    "pissa-rslora": (llama, plain, {**PISSA, "use_rslora": True, "lora_alpha": 4}),
    "pissa-patterns": (
        llama,
        plain,
        {**PISSA, "rank_pattern": {"down_proj": 6}, "alpha_pattern": {"down_proj": 9}},
    ),
    "pissa-transposed": (
        gpt2,
        plain,
        {"init_lora_weights": "pissa", "target_modules": ["c_attn"], "fan_in_fan_out": True},
    ),
    "olora": (llama, plain, {**PISSA, "init_lora_weights": "olora"}),
    "corda": (llama, corda, {**PISSA, "init_lora_weights": "corda", "corda_config": CordaConfig()}),
    "lora-ga": (llama, lora_ga, {**PISSA, "init_lora_weights": "lora_ga", "lora_ga_config": LoraGAConfig()}),
}


@dataclass
class Trained:
    """A model of PEFT after three steps, its base as it was, and both adapters on the disk."""

    model: PeftModel
    base: torch.nn.Module
    folder: Path
    initial: Path

    def update(self, module: str) -> np.ndarray:
        """What PEFT's merge adds to the original weight, as (m, n)."""
        merged = copy.deepcopy(self.model).merge_and_unload()
        before, after = (each.get_submodule(module).weight.detach().double() for each in (self.base, merged))
        difference = (after - before).numpy()
        return difference.T if self.model.peft_config["default"].fan_in_fan_out else difference


def train(model) -> None:
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()


def trained(start: str, path: Path) -> Trained:
    make_base, make, options = STARTS[start]
    torch.manual_seed(0)
    base = make_base()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(copy.deepcopy(base), LoraConfig(**{"r": RANK, "lora_alpha": SCALE * RANK, **options}))
        config = model.peft_config["default"]
        init, config.init_lora_weights = config.init_lora_weights, True
        model.save_pretrained(path / "initial")
        config.init_lora_weights = init
        train(model)
        model.save_pretrained(path / "adapter")
    return Trained(model.eval(), base.eval(), path / "adapter", path / "initial")


@pytest.mark.parametrize("start", STARTS)
def test_what_peft_saves_as_plain_lora_has_the_spectra_of_what_its_merge_adds(start, tmp_path):
    one = trained(start, tmp_path)
    (refused,) = [
        finding for finding in audit_adapter(one.folder).findings if finding.code == "init-not-update"
    ]
    assert "path_initial_model_for_weight_conversion" in refused.hint
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.model.save_pretrained(
            tmp_path / "plain", path_initial_model_for_weight_conversion=str(one.initial)
        )
    report = audit_adapter(tmp_path / "plain")
    assert not [finding.code for finding in report.findings if finding.code.startswith("init-")]
    for layer in report.layers:
        expected = np.linalg.svd(one.update(layer.name), compute_uv=False)[: layer.r]
        got = np.asarray(layer.singular_values)
        # The merge and the change of the base are rounded to float32, relative to W.
        assert np.abs(got - expected[: len(got)]).max() < 2e-6, layer.name
        assert layer.r == 2 * one.model.get_submodule(f"base_model.model.{layer.name}").r["default"]
