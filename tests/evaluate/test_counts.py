"""How often an evaluation tokenizes a row and opens an adapter: once, however many adapters there are."""

from __future__ import annotations

from collections import Counter

import adapters_to_compare as data
import pytest
from transformers import PreTrainedTokenizerBase

from gradience import evaluate_adapters
from gradience.adapters import formats
from gradience.evaluate import adapters


@pytest.fixture
def counted(monkeypatch):
    """Texts that any tokenizer encodes, and folders that are opened."""
    texts, folders = Counter(), Counter()
    call, opened = PreTrainedTokenizerBase.__call__, formats.open_adapter

    def encode(self, text=None, text_pair=None, **settings):
        texts.update(map(str, text if isinstance(text, list) else [text]))
        return call(self, text, text_pair, **settings)

    def open_adapter(path, **settings):
        folders[path.name] += 1
        return opened(path, **settings)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", encode)
    monkeypatch.setattr(adapters, "open_adapter", open_adapter)
    return texts, folders


def test_a_row_is_tokenized_once_for_all_adapters_and_an_adapter_opened_once(tmp_path, counted):
    """It was 30 times for the first prompt and 7 for its response; of a classifier's rows 4 to 12 times."""
    texts, folders = counted
    folder = data.writers(tmp_path)
    (folder / "rows.jsonl").write_text(
        '{"prompt": "good film", "answer": "bad"}\n{"prompt": "film", "answer": "a"}\n'
    )
    evaluate_adapters(
        [folder / "reference", folder / "other"], base_model=folder / "base", data=folder / "rows.jsonl",
        device="cpu", max_new_tokens=2, with_base=True,
    )  # fmt: skip
    assert [texts[text] for text in ("good film", "good film bad", "film", "film a")] == [1, 1, 1, 1]
    assert folders == {"reference": 1, "other": 1}


def test_a_text_is_tokenized_once_for_all_classifiers(tmp_path, counted):
    texts, folders = counted
    folder = data.classifiers(tmp_path)
    evaluate_adapters(
        [folder / "reference", folder / "other"], base_model=folder / "base", data=folder / "rows.csv",
        device="cpu", max_length=16,
    )  # fmt: skip
    rows = {text: count for text, count in texts.items() if text != "0 a"}  # which a tokenizer is tried on
    assert set(rows.values()) == {1}
    assert len(rows) == data.ROWS
    assert folders == {"reference": 1, "other": 1}
