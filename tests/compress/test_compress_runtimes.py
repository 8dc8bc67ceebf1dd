"""The verdicts on adapters that real PEFT wrote: of the architecture that is found, for the tensors that are there."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from gradience.audit.adapter import audit_adapter
from gradience.compress.adapter import write_compressed
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToRank

SHAPE = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
RUNTIMES = ("PEFT", "PEFT hotswap", "vLLM", "llama.cpp")


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-such-cache"))


def llama():
    return LlamaForCausalLM(LlamaConfig(**SHAPE, intermediate_size=24, tie_word_embeddings=False))


def bert():
    return BertForSequenceClassification(BertConfig(**SHAPE, intermediate_size=24, num_labels=3))


def compressed(tmp_path, model, task="CAUSAL_LM", *, keep_base=True, dtype=None, **options):
    """The report on an adapter of PEFT, cut to rank 2."""
    base, folder = tmp_path / "base", tmp_path / "adapter"
    model.save_pretrained(base)
    model.name_or_path = str(base)
    trained = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type=task, **options))
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    trained.save_pretrained(folder)
    if not keep_base:
        shutil.rmtree(base)
    plan = plan_compression(audit_adapter(folder), ToRank(2))
    return write_compressed(folder, plan, tmp_path / "smaller", dtype=dtype)


def said(report):
    assert tuple(row.runtime for row in report.runtimes) == RUNTIMES
    return {row.runtime: row.verdict for row in report.runtimes}


def test_a_llama_loads_where_llamas_were_run(tmp_path):
    report = compressed(tmp_path, llama(), target_modules=["q_proj", "v_proj"])
    assert report.architecture == "LlamaForCausalLM"
    assert said(report) == dict.fromkeys(RUNTIMES, "loads")
    assert all(row.run.startswith("docs/runtimes.md#") for row in report.runtimes)


def test_a_classifier_loads_in_peft_and_vllm_has_no_adapters_for_it(tmp_path):
    report = compressed(tmp_path, bert(), "SEQ_CLS", target_modules=["query", "value"])
    assert report.architecture == "BertForSequenceClassification"
    assert said(report) == {
        "PEFT": "loads",
        "PEFT hotswap": "not run",
        "vLLM": "refuses",
        "llama.cpp": "not run",
    }
