"""TRL's trainers with and without the callback: the same losses and the same adapter, bit for bit; and what monitor
says about healthy and broken GRPO, DPO and SFT runs."""

from __future__ import annotations

import importlib

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from gradience.audit.adapter import audit_adapter
from gradience.live.callback import GradienceCallback
from gradience.monitor import monitor_runs
from gradience.telemetry import TelemetryReader
from tests.conformance import tiny_trl
from tests.conformance.tiny_trl import SCENARIOS, speaker, tokenizer
from tests.live.tiny import Tokens, llama

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

LORA = {
    "plain": {},
    "rslora, dropout": {"use_rslora": True, "lora_dropout": 0.1},
    "dora": {"use_dora": True},
    "all linear": {"target_modules": "all-linear"},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 4}},
}


def sft(folder, lora, callbacks, **arguments):
    trl = importlib.import_module("trl")
    rows = Dataset.from_list([{"input_ids": row["input_ids"].tolist()} for row in Tokens()])
    settings = {
        "max_steps": 8, "logging_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 5e-3, "report_to": [],
        "save_strategy": "no", "seed": 7, "use_cpu": True, "bf16": False, "disable_tqdm": True, "max_length": 16,
        "gradient_checkpointing": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "pad_token": None,
    }  # fmt: skip
    return trl.SFTTrainer(
        model=llama(pad_token_id=63),
        args=trl.SFTConfig(output_dir=str(folder), **{**settings, **arguments}),
        train_dataset=rows,
        processing_class=tokenizer(),
        peft_config=LoraConfig(
            **{"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **lora}
        ),
        callbacks=callbacks,
    )


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 2}], ids=["", "accumulated"])
@pytest.mark.parametrize("lora", LORA.values(), ids=LORA)
def test_losses_and_adapter_are_bit_identical(tmp_path, lora, arguments):
    runs = []
    for name, callbacks in (("plain", []), ("watched", [GradienceCallback(spectra_every=2)])):
        run = sft(tmp_path / name, lora, callbacks, **arguments)
        run.train()
        runs.append(run)
    plain, watched = ([e["loss"] for e in run.state.log_history if "loss" in e] for run in runs)
    assert plain == watched
    for (name, one), other in zip(
        runs[0].model.state_dict().items(), runs[1].model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    runs[1].save_model(str(tmp_path / "adapter"))
    record = [
        r for r in TelemetryReader(tmp_path / "watched" / "run.jsonl") if r.text("kind") == "lora_spectra"
    ][-1]
    audited = [layer.stable_rank for layer in audit_adapter(tmp_path / "adapter").layers]
    assert sorted(record.mapping("metrics")["stable_rank"]) == pytest.approx(sorted(audited), rel=1e-4)
    report = monitor_runs([tmp_path / "watched" / "run.jsonl"]).runs[0]
    assert (report.outcome, report.last_step, report.loss.count) == ("ok", 8, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return speaker(tmp_path_factory.mktemp("base"))


SAYS = {
    "sft": ("SFTTrainer", "supervised"),
    "dpo": ("DPOTrainer", "preference"),
    "grpo": ("GRPOTrainer", "reinforcement"),
}


@pytest.mark.parametrize("name", SAYS)
def test_monitor_is_quiet_about_healthy_runs(tmp_path, base, name):
    tiny_trl.train(name, tmp_path, base)
    run = monitor_runs([tmp_path / "run.jsonl"]).runs[0]
    assert (run.setup.trainer, run.setup.method, run.outcome) == (*SAYS[name], "ok")
    assert not [alert.code for alert in run.alerts if alert.severity != "info"]
    assert run.rank_use.points[0].step == 2  # after the first logging interval


@pytest.mark.parametrize("name", ["grpo", "dpo"])
def test_rewards_and_adapter_are_bit_identical(tmp_path, base, name):
    runs = []
    for folder, callbacks in (("plain", []), ("watched", [GradienceCallback(spectra_every=1)])):
        run = SCENARIOS[name](tmp_path / folder, base, callbacks, max_steps=8)
        run.train()
        runs.append(run)
    timed = ("step_time", "runtime", "per_second", "memory")
    plain, watched = (
        [
            {k: v for k, v in entry.items() if not any(word in k for word in timed)}
            for entry in run.state.log_history
        ]
        for run in runs
    )
    assert plain == watched
    for (key, one), other in zip(
        runs[0].model.state_dict().items(), runs[1].model.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), key
