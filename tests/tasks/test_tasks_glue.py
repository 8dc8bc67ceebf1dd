"""GLUE: the hub's columns and labels, the paper's metrics, and what is refused. The sentences are our own."""

from __future__ import annotations

import math

import pytest
from data_files import write_jsonl, write_repository
from hypothesis import given
from hypothesis import strategies as st

from gradience.errors import UsageError
from gradience.tasks import glue
from gradience.tasks.examples import ROLES
from gradience.tasks.metrics import score

LABELS = {
    # As on the card of nyu-mll/glue.
    "cola": ["unacceptable", "acceptable"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qnli": ["entailment", "not_entailment"],
    "qqp": ["not_duplicate", "duplicate"],
    "rte": ["entailment", "not_entailment"],
    "sst2": ["negative", "positive"],
}
COLUMNS = {
    "cola": ["sentence"],
    "mnli": ["premise", "hypothesis"],
    "mrpc": ["sentence1", "sentence2"],
    "qnli": ["question", "sentence"],
    "qqp": ["question1", "question2"],
    "rte": ["sentence1", "sentence2"],
    "sst2": ["sentence"],
}
METRICS = {"cola": "matthews", "mrpc": "f1", "qqp": "f1"}


def rows(subset: str, start: int, count: int, *, named: bool = False) -> list[dict[str, object]]:
    names = LABELS[subset]
    return [
        {column: f"The {column} of row {n}." for column in COLUMNS[subset]}
        | {"label": names[n % len(names)] if named else n % len(names), "idx": n}
        for n in range(start, start + count)
    ]


def features(subset: str, names: list[str]) -> str:
    texts = "".join(f"  - name: {column}\n    dtype: string\n" for column in COLUMNS[subset])
    labels = "".join(f"          '{place}': {name}\n" for place, name in enumerate(names))
    return f"{texts}  - name: label\n    dtype:\n      class_label:\n        names:\n{labels}" + (
        "  - name: idx\n    dtype: int32\n"
    )


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def make(subset, names=None):
        validations = ["validation_matched", "validation_mismatched"] if subset == "mnli" else ["validation"]
        splits = {"train": rows(subset, 0, 50)} | {
            name: rows(subset, 100 * place, 12) for place, name in enumerate(validations, start=1)
        }
        return write_repository(tmp_path / "glue", subset, splits, features(subset, names or LABELS[subset]))

    return make


@pytest.mark.parametrize("subset", LABELS)
def test_the_hub_and_files_give_the_same_examples(subset, repository, tmp_path):
    from_hub = glue.load(subset=subset, dataset=str(repository(subset)))
    for named in (False, True):
        from_files = glue.load(
            subset=subset,
            train_file=write_jsonl(tmp_path / "train.jsonl", rows(subset, 0, 50, named=named)),
            validation_file=write_jsonl(tmp_path / "validation.jsonl", rows(subset, 100, 12, named=named)),
        )
        assert from_files.examples == from_hub.examples
    assert list(from_hub.label_names) == LABELS[subset]
    assert from_hub.metric == METRICS.get(subset, "accuracy")
    assert {role: len(from_hub.examples.of(role)) for role in ROLES} == {
        "train": 40,
        "dev": 10,
        "confirm": 12,
    }
    example = from_hub.examples.of("confirm")[0]
    texts = [example.text] if example.text_pair is None else [example.text, example.text_pair]
    assert [text.split()[1] for text in texts] == COLUMNS[subset]


@pytest.mark.parametrize(("subset", "hint"), [("stsb", "set `subset`"), ("sst-2", "did you mean `sst2`")])
def test_what_is_no_task_here_is_refused(subset, hint):
    with pytest.raises(UsageError) as caught:
        glue.load(subset=subset)
    assert hint in caught.value.hint
    assert caught.value.code == "glue-subset"


def test_options_that_do_not_fit(tmp_path):
    with pytest.raises(UsageError, match="only one of"):
        glue.load(subset="rte", train_file=tmp_path / "train.tsv")


# --- metrics --------------------------------------------------------------------------------------

LABELED = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=60)


@given(LABELED)
def test_metrics_are_what_the_four_counts_give(pairs):
    labels, predictions = zip(*pairs, strict=True)
    count = {key: float(pairs.count(key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}
    tn, fp, fn, tp = count[0, 0], count[0, 1], count[1, 0], count[1, 1]
    assert score("accuracy", labels, predictions) == pytest.approx((tp + tn) / len(pairs))
    assert score("f1", labels, predictions) == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp else 0.0)
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    expected = (tp * tn - fp * fn) / spread if spread else 0.0
    assert score("matthews", labels, predictions) == pytest.approx(expected)
