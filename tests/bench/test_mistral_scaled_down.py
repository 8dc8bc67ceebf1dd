"""The Mistral configs through the same code: a randomly initialised model of that architecture, scaled down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from data_files import write_jsonl
from gsm8k_cases import QUESTIONS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MistralConfig, MistralForCausalLM, PreTrainedTokenizerFast, set_seed

from gradience.artifacts.bench import Bench
from gradience.artifacts.records import GenerationRecord, read_records
from gradience.cli.app import run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grouped queries and a sliding window as in Mistral-7B, a hundred thousandth of its weights."""
    folder = tmp_path_factory.mktemp("mistral")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    made.train_from_iterator([row["question"] + row["answer"] for row in QUESTIONS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, sliding_window=512, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("questions")
    train, test = (
        write_jsonl(folder / "train.jsonl", QUESTIONS[6:]),
        write_jsonl(folder / "test.jsonl", QUESTIONS[:6]),
    )
    return [f"task.options={json.dumps({'train_file': str(train), 'test_file': str(test)})}"]


@pytest.mark.parametrize(
    "name", ["mistral_gsm8k_certifiable_seed42", "mistral_gsm8k_screening", "mistral_gsm8k_smoke"]
)
def test_it_goes_from_the_config_to_a_verdict(
    name: str, base: Path, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scaled = [
        f"model.name={base}", "model.dtype=float32", "runtime.device=cpu", "train.max_steps=2", "task.eval_samples=4",
        "task.generation.max_new_tokens=6", "task.probe_gate.min_value=0", "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=2", "compression.variants=[per_layer]",
        "compression.controls=[aa]", "compression.retrain=[per_layer]",
    ]  # fmt: skip
    code = run(["bench", "run", "--config", name, "--output", str(tmp_path), *scaled, *data])
    bench = Bench.read(tmp_path / "bench.json")
    assert code in (0, 1)
    assert bench.status in ("PASS", "FAIL")
    assert bench.smoke == name.endswith("smoke")
    assert bench.probe is not None
    assert bench.probe.rank == 64
    assert (bench.probe.n, bench.probe.correct) == (4, 0)
    _, records = read_records(tmp_path / bench.probe.records, GenerationRecord)
    assert all(record.n_tokens <= 6 for record in records)
    assert bench.probe.cut_off == sum(record.stopped_by == "length" for record in records)
    assert "per_layer" in capsys.readouterr().out
    assert all(variant.status != "ERROR" for variant in bench.variants)
