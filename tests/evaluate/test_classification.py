"""Labels from adapters that share one tiny random BERT, against PEFT itself."""

import numpy as np
import pytest
import torch
from evaluating import evaluate_classification
from raising import raises
from safetensors.torch import load_file
from tiny_models import Sentence, bert, bert_adapter, classify, sentences, words_tokenizer

from gradience.errors import UsageError
from gradience.evaluate.engines.transformers.engine import TransformersEngine
from gradience.files.records import count

READ = {"batch_size": 8, "max_length": 6}
KINDS = {"a": {}, "b": {"r": 2}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True, "r": 9}}


@pytest.fixture
def adapters(tmp_path):
    return {
        name: bert_adapter(tmp_path / name, seed, **kind)
        for seed, (name, kind) in enumerate(KINDS.items(), 1)
    }


@pytest.fixture
def engine(adapters):
    engine = TransformersEngine(bert(), words_tokenizer())
    for name, folder in adapters.items():
        engine.add(name, folder)
    return engine


def logits_of(engine, name, texts, *, lora=True):
    with engine.using(name, lora=lora) as model:
        return classify(model, engine.tokenizer, texts, **READ)


def texts_of(examples):
    return [example.text for example in examples]


@pytest.mark.parametrize("name", KINDS)
def test_without_lora_the_head_answers_alone_and_the_update_comes_back(engine, adapters, name):
    texts = texts_of(sentences(20))
    before = logits_of(engine, name, texts)
    head_alone = bert()
    tensors = load_file(adapters[name] / "adapter_model.safetensors")
    with torch.no_grad():
        head_alone.classifier.weight.copy_(tensors["base_model.model.classifier.weight"])
        head_alone.classifier.bias.copy_(tensors["base_model.model.classifier.bias"])
    expected = classify(head_alone, words_tokenizer(), texts, **READ)
    assert np.array_equal(logits_of(engine, name, texts, lora=False), expected)
    assert np.array_equal(logits_of(engine, name, texts), before)
    assert not np.allclose(before, expected)


def test_a_record_for_every_example(engine):
    examples = sentences(40)
    run, records = evaluate_classification(engine, "a", examples, **READ)
    logits = logits_of(engine, "a", texts_of(examples))
    assert [record.id for record in records] == [example.id for example in examples]
    np.testing.assert_allclose([record.logits for record in records], logits, rtol=1e-11)
    assert [record.predicted for record in records] == logits.argmax(axis=1).tolist()
    assert [record.correct for record in records] == [
        bool(row.argmax() == example.label) for row, example in zip(logits, examples, strict=True)
    ]
    assert [record.truncated for record in records] == [len(example.text.split()) > 6 for example in examples]
    counts = count(records)
    assert (counts.n, counts.correct) == (40, sum(record.correct for record in records))
    assert counts.truncated == sum(record.truncated for record in records)
    assert counts.cut_off == counts.failed_extractions == 0
    assert (run.kind, run.n, run.batch_size, run.max_length, run.adapter) == ("classification", 40, 8, 6, "a")


def test_pairs_of_texts_are_read_as_pairs(engine):
    examples = [
        Sentence(example.id, example.text, example.label, other.text)
        for example, other in zip(sentences(30), sentences(30)[::-1], strict=True)
    ]
    records = evaluate_classification(engine, "a", examples, batch_size=8, max_length=12).records
    tokenizer = words_tokenizer()
    for record, example in zip(records, examples, strict=True):
        inputs = tokenizer(
            example.text, example.text_pair, return_tensors="pt", truncation=True, max_length=12
        )
        with engine.using("a") as model, torch.no_grad():
            np.testing.assert_allclose(record.logits, model(**inputs).logits[0], atol=1e-5)
        length = len(example.text.split()) + 1 + len(example.text_pair.split())
        assert record.truncated == (length > 12)
    singles = evaluate_classification(engine, "a", sentences(30), batch_size=8, max_length=12).records
    assert {r.text_sha256 for r in records}.isdisjoint(r.text_sha256 for r in singles)
    with raises(UsageError, "mixed-examples"):
        evaluate_classification(engine, "a", [*examples, *sentences(2)], batch_size=64)
