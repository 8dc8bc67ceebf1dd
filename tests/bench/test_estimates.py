"""Estimates before a run: parameters against PEFT's own count, the rest by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from tiny_bench import llama
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
)

from gradience.bench.estimates import ADAM_BYTES, BANDWIDTH, FLOPS, KNOWN, architecture_of, estimate


def lora_params(model, targets, r):  # type: ignore[no-untyped-def]
    wrapped = get_peft_model(model, LoraConfig(r=r, target_modules=targets))
    return sum(weight.numel() for name, weight in wrapped.named_parameters() if "lora_" in name)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["k_proj", "down_proj"], "all-linear"], ids=str)
def test_a_decoder_has_the_parameters_that_peft_counts(tmp_path: Path, targets: list[str] | str) -> None:
    folder = llama(tmp_path)
    found = architecture_of(str(folder))
    assert found is not None
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights = sum(weight.numel() for name, weight in model.named_parameters() if "norm" not in name)
    assert found.parameters == weights
    assert found.lora_params(4, targets) == lora_params(model, targets, 4)


@pytest.mark.parametrize(
    "targets", [["query", "value"], ["output.dense"], ["key", "intermediate.dense"]], ids=str
)
def test_bert_likewise(tmp_path: Path, targets: list[str]) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertForSequenceClassification(BertConfig(vocab_size=30, **shape))
    model.save_pretrained(tmp_path)
    found = architecture_of(str(tmp_path))
    assert found is not None
    assert found.lora_params(4, targets) == lora_params(model, targets, 4)


@pytest.mark.parametrize("targets", [["q_lin", "v_lin"], ["lin1", "lin2", "out_lin"]], ids=str)
def test_distilbert_likewise(tmp_path: Path, targets: list[str]) -> None:
    model = DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=30, dim=16, n_layers=2, n_heads=2, hidden_dim=24)
    )
    model.save_pretrained(tmp_path)
    found = architecture_of(str(tmp_path))
    assert found is not None
    assert found.lora_params(4, targets) == lora_params(model, targets, 4)


def test_mistral_7b_is_known_offline() -> None:
    found = architecture_of("mistralai/Mistral-7B-v0.1")
    assert found is not None
    assert found.parameters == pytest.approx(7.24e9, rel=1e-3)
    assert found.lora_params(64, ["q_proj", "k_proj", "v_proj", "o_proj"]) == 54_525_952


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder"])
def test_what_is_not_known_is_not_guessed(name: str) -> None:
    assert architecture_of(name) is None
    assert name not in KNOWN


def test_the_cost_by_hand() -> None:
    found = architecture_of("embedded:smollm2")
    assert found is not None
    settings = {
        "r": 16,
        "targets": "all-linear",
        "bytes_per_weight": 2,
        "steps": 10,
        "sequences": 4,
        "max_length": 100,
    }
    asked = {"examples": 130, "new_tokens": 50, "eval_batch": 64, "trainings": 2, "evaluations": 3}
    plain = estimate(found, checkpointing=False, **settings, **asked)
    n = found.parameters
    assert plain.tokens_per_training == 4_000
    assert plain.weights_bytes == 2 * n
    assert plain.trained_bytes == ADAM_BYTES * found.lora_params(16, "all-linear")
    assert plain.hours_per_training == pytest.approx(4 * n * 4_000 / FLOPS / 3600)
    decoding = 50 * 3 * 2 * n / BANDWIDTH  # three batches, 50 positions each
    assert plain.hours_per_evaluation == pytest.approx((2 * n * 130 * 100 / FLOPS + decoding) / 3600)
    assert plain.hours == pytest.approx(2 * plain.hours_per_training + 3 * plain.hours_per_evaluation)
    saved = estimate(found, checkpointing=True, **settings, **asked)
    assert saved.hours_per_training == pytest.approx(1.5 * plain.hours_per_training)
