"""One base, several adapters, the same batches: on a tiny random BERT, against PEFT itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

from gradience.artifacts.records import ClassificationRecord, ExamplesRun, read_records, write_records
from gradience.errors import InputError, UsageError
from gradience.inference import Classifier, accuracy, classify, diverge, fixed_batches, kl_divergence

WORDS = ["good", "bad", "film", "plot", "very", "a", "dull", "joy"]


@dataclass(frozen=True)
class Sentence:
    id: str
    text: str
    label: int


def sentences(count: int) -> list[Sentence]:
    draw = np.random.default_rng(0)
    return [
        Sentence(f"{number:04d}", " ".join(draw.choice(WORDS, size=draw.integers(1, 9))), number % 2)
        for number in range(count)
    ]


def tiny_base() -> BertForSequenceClassification:
    set_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertForSequenceClassification(BertConfig(vocab_size=len(WORDS) + 2, num_labels=2, **shape)).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def save_adapter(
    folder: Path, seed: int, r: int = 4, *, trained: bool = True, task: str | None = "SEQ_CLS"
) -> Path:
    """A PEFT adapter of the tiny base; `trained` fills B, which starts at zero."""
    model = get_peft_model(tiny_base(), LoraConfig(task_type=task, r=r, target_modules=["query", "value"]))
    set_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (trained and "lora_B" in name) or "modules_to_save" in name:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def adapters(tmp_path: Path) -> dict[str, Path]:
    return {name: save_adapter(tmp_path / name, seed, r) for name, seed, r in [("a", 1, 4), ("b", 2, 2)]}


@pytest.fixture
def judge(adapters: dict[str, Path]) -> Classifier:
    judge = Classifier(tiny_base(), tiny_tokenizer(), batch_size=8, max_length=6)
    for name, folder in adapters.items():
        judge.add(name, folder)
    return judge


def test_switching_gives_what_peft_gives_for_each_adapter_alone(
    judge: Classifier, adapters: dict[str, Path]
) -> None:
    texts = [sentence.text for sentence in sentences(50)]
    for name in ("a", "b", "a"):
        alone = PeftModel.from_pretrained(tiny_base(), str(adapters[name])).eval()
        expected = classify(alone, tiny_tokenizer(), texts, batch_size=8, max_length=6)
        assert np.array_equal(judge.logits(name, texts), expected)
    assert not np.allclose(judge.logits("a", texts), judge.logits("b", texts))


def test_without_lora_the_head_answers_alone_and_the_scale_comes_back(
    judge: Classifier, adapters: dict[str, Path]
) -> None:
    texts = [sentence.text for sentence in sentences(20)]
    before = judge.logits("a", texts)
    zeroed = PeftModel.from_pretrained(tiny_base(), str(adapters["a"])).eval()
    with torch.no_grad():
        for name, parameter in zeroed.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    expected = classify(zeroed, tiny_tokenizer(), texts, batch_size=8, max_length=6)
    np.testing.assert_allclose(judge.logits("a", texts, lora=False), expected, rtol=0, atol=1e-6)
    assert np.array_equal(judge.logits("a", texts), before)


def test_rows_come_back_in_the_order_of_the_texts(judge: Classifier) -> None:
    texts = [sentence.text for sentence in sentences(30)]
    together = judge.logits("a", texts)
    alone = np.concatenate([judge.logits("a", [text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)


def test_batches_depend_on_the_texts_alone_and_hold_each_once() -> None:
    texts = ["ccc", "a", "bb", "a", "dddd"]
    assert fixed_batches(texts, 2) == [[1, 3], [2, 0], [4]]
    assert fixed_batches([], 2) == []


def test_a_record_for_every_example(judge: Classifier) -> None:
    examples = sentences(40)
    run, records = judge.evaluate("a", examples)
    logits = judge.logits("a", [example.text for example in examples])
    assert [record.id for record in records] == [example.id for example in examples]
    assert [record.predicted for record in records] == logits.argmax(axis=1).tolist()
    assert [record.correct for record in records] == [
        bool(row.argmax() == example.label) for row, example in zip(logits, examples, strict=True)
    ]
    assert [record.truncated for record in records] == [len(example.text.split()) > 6 for example in examples]
    assert accuracy(records).correct == sum(record.correct for record in records)
    assert (run.n, run.batch_size, run.max_length, run.adapter) == (40, 8, 6, "a")
    assert len(run.adapter_sha256) == 64


def test_an_adapter_that_changes_nothing_is_an_error(tmp_path: Path, judge: Classifier) -> None:
    judge.add("untrained", save_adapter(tmp_path / "untrained", 3, trained=False))
    with pytest.raises(InputError, match="untrained") as caught:
        judge.evaluate("untrained", sentences(20))
    assert caught.value.code == "adapter-inert"
    assert judge.evaluate("untrained", sentences(20), lora=False)[0].lora is False


def test_an_adapter_without_a_head_is_refused(tmp_path: Path, judge: Classifier) -> None:
    with pytest.raises(InputError) as caught:
        judge.add("headless", save_adapter(tmp_path / "headless", 3, task=None))
    assert caught.value.code == "no-head"


def test_names_are_used_once_and_known(judge: Classifier, adapters: dict[str, Path]) -> None:
    with pytest.raises(UsageError):
        judge.add("a", adapters["b"])
    with pytest.raises(UsageError):
        judge.logits("c", ["good"])


def test_kl_against_the_definition() -> None:
    a, b = np.array([[0.0, math.log(3)], [1000.0, 0.0]]), np.array([[0.0, 0.0], [1000.0, 0.0]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    np.testing.assert_allclose(kl_divergence(a, b), [expected, 0.0], atol=1e-15)
    np.testing.assert_allclose(kl_divergence(a + 7, b - 3), kl_divergence(a, b), atol=1e-15)


def record(number: int, label: int, logits: tuple[float, float]) -> ClassificationRecord:
    predicted = int(logits[1] > logits[0])
    return ClassificationRecord(
        id=str(number),
        text_sha256="0" * 64,
        label=label,
        predicted=predicted,
        correct=predicted == label,
        logits=logits,
        truncated=False,
    )


def test_divergence_counts_every_cell(judge: Classifier) -> None:
    run = judge.evaluate("a", sentences(20))[0]
    yes, no = (0.0, 1.0), (1.0, 0.0)
    answers = [(yes, yes, 1), (yes, no, 1), (yes, no, 1), (no, yes, 1), (no, no, 1), (no, no, 1), (no, no, 0)]
    a = [record(number, label, first) for number, (first, _, label) in enumerate(answers)]
    b = [record(number, label, second) for number, (_, second, label) in enumerate(answers)]
    found = diverge((run, a), (run, b))
    assert (found.n, found.flips) == (7, 3)
    assert (found.both_right, found.only_a_right, found.only_b_right, found.both_wrong) == (2, 2, 1, 2)
    per_flip = math.tanh(0.5)  # KL between softmax(0, 1) and softmax(1, 0)
    assert found.kl_mean == pytest.approx(3 * per_flip / 7)
    assert diverge((run, a), (run, a)).kl_mean == 0


def test_what_was_not_evaluated_alike_is_not_compared(judge: Classifier) -> None:
    run, records = judge.evaluate("a", sentences(20))
    other_run, other = judge.evaluate("b", sentences(20))
    assert diverge((run, records), (other_run, other)).n == 20
    for changed in ({"batch_size": 4}, {"dtype": "bfloat16"}, {"threads": 99}, {"max_length": 7}):
        with pytest.raises(UsageError, match="settings"):
            diverge((run, records), (other_run.model_copy(update=changed), other))
    with pytest.raises(UsageError, match="examples"):
        diverge((run, records), (other_run, other[::-1]))
    moved = [replace(sentence, text=sentence.text + " film") for sentence in sentences(20)]
    with pytest.raises(UsageError, match="examples"):
        diverge((run, records), judge.evaluate("b", moved))


def test_records_survive_the_disk_and_damage_is_named(judge: Classifier, tmp_path: Path) -> None:
    run, records = judge.evaluate("a", sentences(20))
    path = write_records(tmp_path / "a.records.jsonl", run, records)
    again, rows = read_records(path)
    assert again == run
    assert rows == records
    assert '"schema":"gradience.records/1"' in path.read_text().splitlines()[0]

    lines = path.read_bytes().splitlines(keepends=True)
    for damaged, where in [
        (b"".join(lines[:-1]), "19 records, and the first line says 20"),
        (b"".join(lines)[:-20], "line 21"),
        (b"", "line 1"),
        (b"".join(lines[1:]), "line 1"),
    ]:
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=where) as caught:
            read_records(path)
        assert caught.value.code == "artifact-invalid"
    with pytest.raises(InputError) as missing:
        read_records(tmp_path / "none.jsonl")
    assert missing.value.code == "artifact-missing"


def test_the_header_names_every_setting_that_must_agree() -> None:
    assert set(ExamplesRun.model_fields) == {
        *("schema_", "kind", "adapter", "adapter_sha256", "base", "lora", "dtype", "batch_size"),
        *("max_length", "threads", "versions", "n"),
    }
