"""How a base may lie on the disk and in memory, and what is said of it."""

from __future__ import annotations

import json
import shutil

import adapters_to_compare as data
import pytest
import tiny_bench
from transformers import AutoModelForSequenceClassification, LlamaForCausalLM

from gradience import evaluate_adapters
from gradience.errors import InputError
from gradience.files.records import read_records
from gradience.models import devices


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The base of the classifiers as one file in `base`, and in shards in `shards`."""
    root = data.classifiers(tmp_path_factory.mktemp("classifiers"))
    model = AutoModelForSequenceClassification.from_pretrained(root / "base", num_labels=2)
    shutil.copytree(root / "base", root / "shards", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(root / "shards", max_shard_size="8KB")
    return root


def evaluate(folder, base, output, **options):
    return evaluate_adapters(
        [folder / "reference", folder / "other"], base_model=folder / base, data=folder / "rows.csv", output=output,
        device="cpu", **options,
    )  # fmt: skip


def test_a_base_in_shards_answers_as_the_same_base_in_one_file(folder, tmp_path):
    shards = sorted((folder / "shards").glob("*.safetensors"))
    assert len(shards) > 2
    assert (folder / "shards" / "model.safetensors.index.json").is_file()
    whole, parts = (evaluate(folder, base, tmp_path / base) for base in ("base", "shards"))
    for name in ("reference", "other"):
        one, other = (
            read_records(tmp_path / base / "records" / f"{name}.jsonl") for base in ("base", "shards")
        )
        assert one.records == other.records
        assert one.run.base_sha256 == other.run.base_sha256
    assert whole.candidates[0].pairs == parts.candidates[0].pairs
    # Another shard is another base; one that is missing is no base.
    assert whole.conditions.base_fingerprint != parts.conditions.base_fingerprint
    shutil.copytree(folder / "shards", tmp_path / "fewer")
    (tmp_path / "fewer" / shards[1].name).unlink()
    with pytest.raises(InputError) as caught:
        evaluate(folder, tmp_path / "fewer", None)
    assert caught.value.code == "model-unreadable"
    assert shards[1].name in str(caught.value)
    index = folder / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"metadata": {}}))
    assert evaluate(folder, "shards", None).conditions.base_fingerprint != parts.conditions.base_fingerprint


# --- auto -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("instructions", [True, False])
def test_auto_takes_what_the_processor_computes_fast(tmp_path, monkeypatch, stored, instructions):
    """Half precision without instructions for it takes 3.5 times as long as float32."""
    monkeypatch.setattr(devices.torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(devices.torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(devices.platform, "machine", lambda: "x86_64")
    tiny_bench.llama(tmp_path / "base")
    half = LlamaForCausalLM.from_pretrained(tmp_path / "base", dtype=stored)
    half.save_pretrained(tmp_path / "base")
    data.adapter(tmp_path / "adapter", tmp_path / "base", 1, task="CAUSAL_LM")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "1 + {n} =", "answer": "{n + 1}"}}\n' for n in range(4)))
    asked = {"base_model": tmp_path / "base", "data": rows, "max_new_tokens": 2, "device": "cpu"}
    expected = "bfloat16" if (stored, instructions) == ("bfloat16", True) else "float32"
    report = evaluate_adapters([tmp_path / "adapter"], **asked)
    assert report.conditions.dtype == expected
    assert [f"own {stored}" in note for note in report.notes] == [True] * (stored != expected)
    given = evaluate_adapters([tmp_path / "adapter"], dtype=stored, **asked)
    assert (given.conditions.dtype, given.notes) == (stored, ())
