"""The difference to an initial adapter, of adapters that PEFT itself makes and trains: judged by PEFT's merge, by its
conversion, and by its outputs on the base as it was.
"""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import CordaConfig, LoraGAConfig
from peft_models import TARGETS, TOKENS, corda, gpt2, llama, lora_ga, plain
from safetensors.numpy import load_file

from gradience import audit_adapter, compress_adapter
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.reports.audit import AuditReport

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


@pytest.fixture(scope="module")
def pissa(tmp_path_factory) -> Trained:
    return trained("pissa", tmp_path_factory.mktemp("pissa"))


@pytest.mark.parametrize("start", STARTS)
def test_the_spectra_are_those_of_what_the_merge_adds_to_the_original_base(start, tmp_path):
    one = trained(start, tmp_path)
    report = audit_adapter(one.folder, initial_adapter=one.initial)
    assert report.adapter.init == one.model.peft_config["default"].init_lora_weights
    assert report.adapter.initial.path == "initial"
    assert [finding.code for finding in report.findings if finding.code.startswith("init-")] == [
        "init-subtracted"
    ]
    for layer in report.layers:
        expected = np.linalg.svd(one.update(layer.name), compute_uv=False)[: layer.r]
        got = np.asarray(layer.singular_values)
        # The merge and the change of the base are rounded to float32, relative to W.
        assert np.abs(got - expected[: len(got)]).max() < 2e-6, layer.name
        assert layer.fro_norm == pytest.approx(np.linalg.norm(one.update(layer.name)), rel=1e-3)
        assert layer.r == 2 * one.model.get_submodule(f"base_model.model.{layer.name}").r["default"]


def eight_levels(weight, num_bits, reduced_rank, num_iter):
    """LoftQ's result from a plain quantizer: PEFT's own is that of bitsandbytes, and wants a GPU."""
    step = weight.abs().max() / 4
    coarse = (weight / step).round() * step
    u, s, v = torch.linalg.svd(weight - coarse, full_matrices=False)
    root = s[:reduced_rank].sqrt()
    return coarse.detach(), (root[:, None] * v[:reduced_rank]).detach(), (u[:, :reduced_rank] * root).detach()


def test_loftq_is_the_difference_to_where_its_training_started(tmp_path, monkeypatch):
    config = {"loftq_bits": 4, "loftq_iter": 1}
    monkeypatch.setitem(
        STARTS, "loftq", (llama, plain, {**PISSA, "init_lora_weights": "loftq", "loftq_config": config})
    )
    monkeypatch.setattr("peft.tuners.lora.layer.loftq_init", eight_levels)
    one = trained("loftq", tmp_path)
    report = audit_adapter(one.folder, initial_adapter=one.initial)
    (finding,) = [finding for finding in report.findings if finding.code == "init-subtracted"]
    assert "quantiz" in finding.message
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = PeftModel.from_pretrained(copy.deepcopy(one.base), one.initial)
    for layer in report.layers:
        wrapped, before = (
            each.get_submodule(f"base_model.model.{layer.name}") for each in (one.model, start)
        )
        learned = (wrapped.get_delta_weight("default") - before.get_delta_weight("default")).detach().double()
        expected = np.linalg.svd(learned.numpy(), compute_uv=False)[: layer.r]
        assert np.abs(np.asarray(layer.singular_values) - expected).max() < 2e-6


def test_at_twice_the_rank_compress_writes_what_the_conversion_of_peft_writes(tmp_path):
    one = trained("pissa", tmp_path)
    report = compress_adapter(one.folder, tmp_path / "ours", rank=2 * RANK, initial_adapter=one.initial)
    shutil.copytree(one.initial, tmp_path / "start")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one.model.save_pretrained(
            tmp_path / "peft", path_initial_model_for_weight_conversion=str(tmp_path / "start")
        )
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "peft"))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    configs = [json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "peft")]
    for field in ("r", "lora_alpha", "init_lora_weights", "use_rslora"):
        assert configs[0][field] == configs[1][field]
    assert report.initial.sha256 == audit_adapter(one.initial).adapter.sha256
    assert any("before pissa changed it" in warning for warning in report.warnings)


# ---------------------------------------------------------------- what does not belong together


def copied(source: Path, target: Path, **changes) -> Path:
    shutil.copytree(source, target)
    config = target / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return target


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_model_name_or_path": "org/other"}, "base"),
        ({"lora_alpha": 12}, "scale"),
        ({"init_lora_weights": "gaussian"}, "gaussian"),
    ],
    ids=["another base", "another scale", "another start"],
)
def test_an_initial_adapter_of_another_training_is_one_clear_error(pissa, tmp_path, changes, words):
    adapter = copied(pissa.folder, tmp_path / "adapter", base_model_name_or_path="org/base")
    other = copied(pissa.initial, tmp_path / "other", **({"base_model_name_or_path": "org/base"} | changes))
    for work in (audit_adapter, lambda path, **start: compress_adapter(path, rank=2, dry_run=True, **start)):
        with pytest.raises(InputError, match=words) as caught:
            work(adapter, initial_adapter=other)
        assert caught.value.code == "initial-mismatch"
        assert "before the first step" in caught.value.hint


def test_other_shapes_other_modules_and_a_start_at_zero(pissa, tmp_path):
    for name, options, words in (
        ("rank", {"r": 2, "lora_alpha": 4, **PISSA}, "and B .16, 2. there"),
        ("fewer", {"r": RANK, "lora_alpha": 8, **PISSA, "target_modules": ["q_proj"]}, "no module"),
        ("more", {"r": RANK, "lora_alpha": 8, **PISSA, "target_modules": [*TARGETS, "up_proj"]}, "has not"),
        ("zero", {"r": RANK, "lora_alpha": 8, "target_modules": TARGETS}, "B is 0"),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(copy.deepcopy(pissa.base), LoraConfig(**options))
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(tmp_path / name)
        with pytest.raises(InputError, match=words):
            audit_adapter(pissa.folder, initial_adapter=tmp_path / name)


# ---------------------------------------------------------------- the command line


def test_the_commands_take_it(pissa, tmp_path, capsys):
    start = ["--initial-adapter", str(pissa.initial)]
    assert run(["audit", str(pissa.folder), *start]) == 0
    assert "measured after subtracting the initial adapter initial" in capsys.readouterr().out
    assert run(["audit", str(pissa.folder), *start, "--json"]) == 0
    report = AuditReport.model_validate_json(capsys.readouterr().out)
    coverage = report.coverage
    assert coverage.params == coverage.audited_params + coverage.other_params + coverage.unaudited_params
    out = str(tmp_path / "out")
    assert run(["compress", str(pissa.folder), *start, "--rank", "2", "--output", out]) == 0
    assert "initial adapter initial" in capsys.readouterr().out
