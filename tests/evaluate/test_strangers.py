"""Bases and adapter configs of strangers: nothing is imported, unpickled or counted for ever; one sentence each.

All of them are in tests/hostile/surfaces/bases.py; here are those whose words matter.
"""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from tiny_models import letters_tokenizer, llama, llama_adapter, sums

from gradience import evaluate_adapters
from gradience.adapters import patterns
from gradience.errors import InputError
from gradience.evaluate.engines.transformers import TransformersEngine
from gradience.models.load import load_base
from gradience.models.settings import ModelSettings


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strangers") / "base"
    llama().save_pretrained(folder)
    letters_tokenizer().save_pretrained(folder)
    return folder


def edited(folder, **changes):
    path = folder / ("config.json" if (folder / "config.json").exists() else "adapter_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_base_that_the_adapter_names_is_not_unpickled(tmp_path, base):
    """A user may name such a base; an adapter may not."""
    pickled = shutil.copytree(base, tmp_path / "pickled")
    (pickled / "model.safetensors").unlink()
    torch.save(llama().state_dict(), pickled / "pytorch_model.bin")
    adapter = edited(llama_adapter(tmp_path / "adapter", 1), base_model_name_or_path=str(pickled))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": row.prompt, "answer": row.answer}) + "\n" for row in sums(6))
    )
    asked = {"data": rows, "max_new_tokens": 2, "device": "cpu"}
    with pytest.raises(InputError, match="names this base") as caught:
        evaluate_adapters([adapter], **asked)
    assert str(pickled) in caught.value.hint
    with pytest.raises(InputError, match="names this base"):
        load_base(ModelSettings(name=str(pickled), type="causal_lm", from_adapter=True), device="cpu")
    assert evaluate_adapters([adapter], base_model=pickled, **asked).adapters[0].n == 6


def test_a_config_chooses_no_module_to_import(tmp_path, monkeypatch):
    package = tmp_path / "path" / "megatron" / "core"
    package.mkdir(parents=True)
    (package / "planted.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path / "path")
    adapter = llama_adapter(tmp_path / "adapter", 1)
    edited(adapter, megatron_config={"a": 1}, megatron_core="megatron.core.planted")
    engine = TransformersEngine(llama(), letters_tokenizer())
    engine.add("a", adapter)
    assert "megatron.core.planted" not in sys.modules


NEVER_ENDS = "([a-z_.0-9]+)+!"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("target_modules", NEVER_ENDS, "more than 1 s"),
        ("exclude_modules", "*", "nothing to repeat"),
        ("modules_to_save", ["("], "unterminated"),
        ("layers_to_transform", "x", "a list of layers"),
        ("trainable_token_indices", [10**6], "the base has 46 tokens"),
        ("lora_dropout", "x", "a number from 0 to 1"),
        ("eva_config", "x", "PEFT cannot read it"),
    ],
)
def test_a_field_that_peft_would_fail_on_is_named(tmp_path, monkeypatch, field, value, words):
    monkeypatch.setattr(patterns, "TRIAL_SECONDS", 1)
    adapter = edited(llama_adapter(tmp_path / "adapter", 1), **{field: value})
    with pytest.raises(InputError, match=words) as caught:
        TransformersEngine(llama(), letters_tokenizer()).add("a", adapter)
    assert f"{adapter}/adapter_config.json: " in str(caught.value)
    assert (field in str(caught.value)) == (field != "eva_config")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": -1}, "vocab_size is -1"),
        ({"rope_parameters": {"rope_type": "nope"}}, "rope_parameters is"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is"),
        ({"vocab_size": 250_000_000}, "numbers, and the weights"),
        ({"_attn_implementation": "org/kernels"}, "code on the hub"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_config_that_describes_no_model_is_one_sentence(tmp_path, base, changes, words):
    folder = edited(shutil.copytree(base, tmp_path / "base"), **changes)
    with pytest.raises(InputError, match=words) as caught:
        load_base(ModelSettings(name=str(folder), type="causal_lm"), device="cpu")
    assert str(caught.value).startswith(f"{folder}/config.json: ")


def test_weights_of_other_shapes_than_the_config_says(tmp_path, base):
    folder = edited(shutil.copytree(base, tmp_path / "base"), intermediate_size=64)
    with pytest.raises(InputError, match=r"mlp\.down_proj\.weight has the shape \(32, 48\), .* \(32, 64\)"):
        load_base(ModelSettings(name=str(folder), type="causal_lm"), device="cpu")
