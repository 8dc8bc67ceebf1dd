"""Where the architecture of an adapter's base is found, and where it is not."""

from __future__ import annotations

import json

import pytest

from gradience.adapters.config import read_config
from gradience.runtimes import architecture_of

PLAIN = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}


def adapter_config(folder, **fields):
    folder.mkdir(exist_ok=True)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(PLAIN | fields), encoding="utf-8")
    return read_config(path)


def base_config(folder, text='{"architectures": ["MistralForCausalLM"], "model_type": "mistral"}'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return str(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


def test_the_config_of_a_base_model_on_this_machine_says_it(tmp_path, hub):
    base = base_config(tmp_path / "base")
    config = adapter_config(tmp_path / "a", base_model_name_or_path=base)
    assert architecture_of(config, tmp_path / "a") == "MistralForCausalLM"


def test_the_cache_of_the_hub_says_it(tmp_path, hub):
    commit, model = "0123456789" * 4, hub / "models--org--name"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    base_config(model / "snapshots" / commit)
    config = adapter_config(tmp_path / "a", base_model_name_or_path="org/name")
    assert architecture_of(config, tmp_path / "a") == "MistralForCausalLM"


def test_the_base_model_that_was_given_comes_first(tmp_path, hub):
    mapping = {"base_model_class": "OPTForCausalLM"}
    config = adapter_config(tmp_path / "a", auto_mapping=mapping)
    base = base_config(tmp_path / "base")
    assert architecture_of(config, tmp_path / "a", base_model=base) == "MistralForCausalLM"


@pytest.mark.parametrize(
    ("declared", "task", "expected"),
    [
        ("BertForMaskedLM", "SEQ_CLS", "BertForSequenceClassification"),
        ("BertModel", "TOKEN_CLS", "BertForTokenClassification"),
        ("GPT2LMHeadModel", "SEQ_CLS", "GPT2ForSequenceClassification"),
        ("GPT2LMHeadModel", "CAUSAL_LM", "GPT2LMHeadModel"),
        ("T5ForConditionalGeneration", "SEQ_2_SEQ_LM", "T5ForConditionalGeneration"),
        ("LlamaForCausalLM", None, "LlamaForCausalLM"),
    ],
)
def test_the_task_names_the_head(tmp_path, hub, declared, task, expected):
    base = base_config(tmp_path / "base", json.dumps({"architectures": [declared]}))
    config = adapter_config(tmp_path / "a", base_model_name_or_path=base, task_type=task)
    assert architecture_of(config, tmp_path / "a") == expected


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"architectures": []}', '{"architectures": "X"}', '{"architectures": ["a b\\n"]}'],
)
def test_a_config_that_does_not_say_it_is_no_error(tmp_path, hub, text):
    base = base_config(tmp_path / "base", text)
    assert (
        architecture_of(adapter_config(tmp_path / "a", base_model_name_or_path=base), tmp_path / "a") is None
    )
