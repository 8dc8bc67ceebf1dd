"""Initializations by PEFT itself: where B·A is not the learned update, the audit says so and suggests nothing."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft_models import TARGETS, corda, llama, lora_ga, plain

from gradience import audit_adapter


def config(**options) -> LoraConfig:
    return LoraConfig(target_modules=TARGETS, r=4, lora_alpha=8, **options)


def saved(lora_config, path, make=plain, *, trained=True):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make(llama(), lora_config)
        if trained:
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.data.add_(0.01 * torch.randn(parameter.shape))
        model.save_pretrained(path)
    return audit_adapter(path)


def codes(report):
    return {finding.code for finding in report.findings}


CHANGED_BASE = {
    "pissa": (config(init_lora_weights="pissa"), plain),
    "pissa-fast": (config(init_lora_weights="pissa_niter_4"), plain),
    "olora": (config(init_lora_weights="olora"), plain),
    "corda": (config(init_lora_weights="corda", corda_config=CordaConfig()), corda),
    "lora-ga": (config(init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig()), lora_ga),
}


@pytest.mark.parametrize("init", CHANGED_BASE)
@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
def test_a_base_that_was_changed_at_the_start(init, trained, tmp_path):
    lora, make = CHANGED_BASE[init]
    report = saved(lora, tmp_path, make, trained=trained)
    (finding,) = [finding for finding in report.findings if finding.code == "init-not-update"]
    assert finding.severity == "error"
    # The spectra are there, and are those of B·A: even a fresh adapter is far from 0.
    assert all(row.status == "ok" for row in report.layers)
    assert report.suggestions is None
    assert report.suggested_r_global_median is None
    assert report.suggested_r_global_90 is None
    assert report.rank_pattern() == {}
    assert report.evidence == {}


def test_loftq(tmp_path):
    """LoftQ itself needs bitsandbytes; what it leaves in a saved adapter is this flag."""
    saved(config(), tmp_path)
    path = tmp_path / "adapter_config.json"
    fields = json.loads(path.read_text()) | {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}
    path.write_text(json.dumps(fields))
    report = audit_adapter(tmp_path)
    assert "init-not-update" in codes(report)
    assert report.suggestions is None


@pytest.mark.parametrize("init", [True, "gaussian"])
def test_ordinary_initializations_start_from_no_update(init, tmp_path):
    fresh = saved(config(init_lora_weights=init), tmp_path / "fresh", trained=False)
    assert {row.status for row in fresh.layers} == {"untrained"}
    assert "untrained" in codes(fresh)
    assert fresh.suggestions is None
    trained = saved(config(init_lora_weights=init), tmp_path / "trained")
    assert trained.suggestions is not None
    assert not {code for code in codes(trained) if code.startswith("init-")}
