"""The callback on a real Trainer: it records, it agrees with the audit, it changes nothing."""

from __future__ import annotations

import json
import math

import pytest
import torch
from transformers import BitsAndBytesConfig

from gradience.audit.adapter import audit_adapter
from gradience.live import SpectralTracker
from gradience.live import callback as module
from gradience.live.callback import GradienceCallback
from gradience.live.sinks import chart_values
from tests.live.tiny import (
    assert_same_weights,
    give_random_factors,
    lora_llama,
    losses,
    records,
    trainer,
    weights,
)

# ------------------------------------------------------------------ it changes nothing

VARIANTS = {
    "plain": ({}, {}),
    "dropout and rslora": ({"lora_dropout": 0.2, "use_rslora": True}, {}),
    "dora": ({"use_dora": True}, {}),
    "patterns": ({"rank_pattern": {"q_proj": 2}}, {}),
    "accumulation": ({}, {"gradient_accumulation_steps": 3}),
    "evaluation": ({"lora_dropout": 0.1}, {"eval_strategy": "steps", "eval_steps": 3}),
    "bf16": ({}, {"bf16": True}),
}


@pytest.mark.parametrize(("lora", "arguments"), VARIANTS.values(), ids=VARIANTS)
def test_losses_and_weights_are_bit_identical_with_and_without(tmp_path, lora, arguments):
    rows = 16 if "eval_strategy" in arguments else 0
    plain = trainer(tmp_path / "plain", lora_llama(**lora), eval_rows=rows, **arguments)
    plain.train()
    callback = GradienceCallback(spectra_every=1)
    watched = trainer(tmp_path / "watched", lora_llama(**lora), [callback], eval_rows=rows, **arguments)
    watched.train()
    assert losses(watched) == losses(plain)
    assert_same_weights(weights(watched), weights(plain))
    assert len(records(tmp_path / "watched" / "run.jsonl", "metrics", "lora_spectra")) == 12


# ------------------------------------------------------------------ it records


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    run = trainer(
        folder, callbacks=[GradienceCallback(notes="a note", spectra_every=4)], eval_rows=16,
        eval_strategy="steps", eval_steps=6, save_strategy="steps", save_steps=4, max_steps=14,
        lr_scheduler_type="cosine", warmup_steps=2,
    )  # fmt: skip
    run.train()
    return run, folder


def test_the_configuration(finished):
    run, folder = finished
    (start,) = records(folder / "run.jsonl", "run_start")
    config = start.mapping("config")
    assert config["notes"] == "a note"
    assert config["data"] == {"train_rows": 64}
    lora = config["lora"]
    assert (lora["r"], lora["alpha"], lora["alpha_over_r"], lora["scale"]) == (8, 16, 2.0, 2.0)
    assert lora["trainable_params"] == sum(p.numel() for p in run.model.parameters() if p.requires_grad)
    assert config["optimizer"]["lr"] == 5e-3
    training = config["training"]
    assert (training["schedule"], training["warmup_steps"], training["max_steps"]) == ("cosine", 2, 14)
    assert training["effective_batch_size"] == 4
    assert config["base"]["hidden_size"] == 32
    assert config["base"]["quantization"] is None
    assert config["task_profile"] == "CAUSAL_LM"
    assert config["trainer"] == {"class": "Trainer", "bases": [], "arguments": "TrainingArguments"}
    assert config["evaluated_by"] is None


def test_steps_evaluations_and_the_end(finished):
    run, folder = finished
    path = folder / "run.jsonl"
    steps = records(path, "train_step")
    assert [r.step for r in steps] == list(range(1, 15))
    assert [r.number("loss") for r in steps] == losses(run)
    assert all(r.number("grad_norm") > 0 and r.number("samples_per_second") > 0 for r in steps)
    assert steps[2].number("lr") == pytest.approx(run.state.log_history[2]["learning_rate"])
    evaluations = records(path, "eval")
    assert [r.step for r in evaluations] == [6, 12, 14]
    first = evaluations[0]
    loss = first.number("metrics", "loss")
    assert first.number("metrics", "ppl") == pytest.approx(math.exp(loss))
    mean = sum(losses(run)[:6]) / 6
    assert first.number("metrics", "gap") == pytest.approx(loss - mean)
    (end,) = records(path, "run_end")
    assert (end.text("status"), end.step, end.text("reason")) == ("ok", 14, None)
    assert end.number("train_loss") == pytest.approx(run.state.log_history[-1]["train_loss"])


def test_live_spectra_agree_with_an_audit_of_the_checkpoint_saved_at_that_step(finished):
    _, folder = finished
    path = folder / "run.jsonl"
    names = records(path, "metrics", "lora_modules")[0].mapping("metrics")["names"]
    spectra = {r.step: r.mapping("metrics") for r in records(path, "metrics", "lora_spectra")}
    assert sorted(spectra) == [1, 4, 8, 12, 14]  # the first log, every fourth, and the end
    for step in (4, 8, 12):
        report = audit_adapter(folder / f"checkpoint-{step}")
        audited = {layer.name: layer for layer in report.layers}
        assert sorted(audited) == sorted(names)
        for i, name in enumerate(names):
            layer = audited[name]
            assert spectra[step]["stable_rank"][i] == pytest.approx(layer.stable_rank, rel=1e-4)
            assert spectra[step]["fro_norm"][i] == pytest.approx(layer.fro_norm, rel=1e-4)
            assert spectra[step]["utilization"][i] == pytest.approx(layer.utilization, rel=1e-3)
            if not layer.borderline:
                assert spectra[step]["energy_rank_90"][i] == layer.energy_rank_90


def test_evaluations_before_and_after_training_belong_to_the_run(tmp_path):
    run = trainer(tmp_path, callbacks=[GradienceCallback()], eval_rows=8, max_steps=2)
    run.evaluate()
    run.train()
    run.evaluate(metric_key_prefix="test")
    rows = records(tmp_path / "run.jsonl")
    assert len({r.run_id for r in rows}) == 1
    assert [r.event for r in rows if r.event != "train_step" and r.event != "metrics"] == [
        "eval", "run_start", "run_end", "eval",
    ]  # fmt: skip
    assert rows[-1].text("split") == "test"
    assert rows[-1].number("metrics", "ppl") > 1


def test_resuming_appends_under_the_same_id_and_says_from_where(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole = trainer(tmp_path / "whole", max_steps=8, **saving)
    whole.train()
    trainer(tmp_path / "run", callbacks=[GradienceCallback()], max_steps=8, **saving).train()
    again = trainer(tmp_path / "run", callbacks=[GradienceCallback()], max_steps=8, **saving)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    rows = records(tmp_path / "run" / "run.jsonl")
    assert len({r.run_id for r in rows}) == 1
    starts = [r for r in rows if r.event == "run_start"]
    assert [r.number("resumed_from_step") for r in starts] == [None, 4]
    assert [r.step for r in rows if r.event == "train_step"] == [*range(1, 9), *range(5, 9)]
    assert losses(again)[-4:] == losses(whole)[-4:]
    assert_same_weights(weights(again), weights(whole))


def test_a_nan_loss_is_recorded(tmp_path):
    model = lora_llama()
    run = trainer(
        tmp_path, model, [GradienceCallback(spectra_every=1)], max_steps=3, logging_nan_inf_filter=False
    )
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "lora_B" in name).fill_(torch.nan)
    run.train()
    steps = records(tmp_path / "run.jsonl", "train_step")
    assert all(math.isnan(r.number("loss")) for r in steps[1:])
    for line in (tmp_path / "run.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_a_model_without_lora_is_recorded_without_spectra(tmp_path):
    from tests.live.tiny import llama

    trainer(tmp_path, llama(), [GradienceCallback(spectra_every=1)], max_steps=2).train()
    rows = records(tmp_path / "run.jsonl")
    assert not [r for r in rows if r.text("kind") in ("lora_modules", "lora_spectra")]
    assert rows[0].mapping("config")["lora"] is None
    assert rows[-1].text("status") == "ok"


@pytest.mark.parametrize(
    "config",
    [{"quant_method": "bitsandbytes", "load_in_4bit": True}, BitsAndBytesConfig(load_in_4bit=True)],
    ids=["as loaded from a file", "as given to from_pretrained"],
)
def test_qlora_is_named(tmp_path, config):
    model = lora_llama()
    model.config.quantization_config = config
    described = module.describe_run(trainer(tmp_path).args, trainer(tmp_path).state, model)
    quantization = described["base"]["quantization"]
    assert quantization["name"] == "QLoRA"
    assert quantization["bits"] == 4


def test_nothing_private_reaches_the_file(tmp_path):
    model = lora_llama()
    model.config._name_or_path = "/home/alice/models/secret-project"
    run = trainer(tmp_path, model, [GradienceCallback(notes="line\nline of a prompt")], max_steps=2)
    run.args.hub_token = "hf_AbCdEfGhIjKlMnOpQrStUvWx"
    run.train()
    text = (tmp_path / "run.jsonl").read_text()
    assert "alice" not in text
    assert "line of a prompt" not in text
    assert "hf_Ab" not in text
    assert '"[path]/secret-project"' in text


def test_it_measures_only_when_due(tmp_path, monkeypatch):
    measured = []
    real = SpectralTracker.measure
    monkeypatch.setattr(
        SpectralTracker, "measure", lambda self, step: measured.append(step) or real(self, step)
    )
    trainer(tmp_path / "a", callbacks=[GradienceCallback()], max_steps=25, logging_steps=1).train()
    assert measured == [1, 10, 20, 25]
    measured.clear()
    trainer(tmp_path / "b", callbacks=[GradienceCallback(spectra_every=0)]).train()
    assert measured == []


def test_the_published_names_are_one_class():
    from gradience import GradienceCallback as short
    from gradience.vnext.integrations.hf import GradienceCallback as published

    assert short is published is GradienceCallback


def test_trackers_get_twelve_numbers():
    snapshot = SpectralTracker(give_random_factors(lora_llama())).measure(1)
    assert len(snapshot.to_metrics()["by_family"]) == 7
    few = chart_values(snapshot)
    assert len(few) == 12
    assert {"gradience/energy_rank_90_p90", "gradience/fro_norm"} <= few.keys()
