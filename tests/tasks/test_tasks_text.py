"""The built-in guard of general text: which paragraphs are read from the package's book, and what is refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from gradience import tasks
from gradience.errors import InputError, MissingExtra
from gradience.statistics.paired import FEWEST_GROUPS
from gradience.tasks import arithmetic, text
from gradience.tasks.base import LikelihoodTask

BOOK = (
    "\ufeffLicence\r\n\r\n*** START OF THE BOOK ***\r\n\r\n{}\r\n*** END OF THE BOOK ***\r\n\r\nLicence again"
)
LONG = "These   words\r\nfill a paragraph. "


@pytest.fixture
def book(monkeypatch, tmp_path):
    def write(content: str):
        path = tmp_path / text.FILE
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode())
        package = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
        monkeypatch.setitem(sys.modules, "reasoning_gym", package)
        monkeypatch.setattr(text, "version", lambda name: "0")

    return write


def test_long_paragraphs_of_the_book_without_its_license(book):
    book(BOOK.format("Short.\r\n\r\n" + "\r\n \r\n".join(LONG * count for count in (12, 13))))
    task = tasks.load("text", {"source": "verne", "min_characters": 300}, needed=())
    assert isinstance(task, LikelihoodTask)
    assert (task.rolling, task.end, task.decide_by) == (True, False, "nll")
    whole = "These words fill a paragraph. "
    assert {example.response for example in task.examples.all} == {(whole * n).strip() for n in (12, 13)}
    assert all(example.prompt == "" and example.role in ("dev", "confirm") for example in task.examples.all)
    assert len(tasks.load("text", {"source": "verne", "min_characters": 1}, needed=()).examples.all) == 3


def test_another_file_is_refused(book):
    book("no book")
    with pytest.raises(InputError) as caught:
        text.load(source="verne")
    assert caught.value.code == "task-file"


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(MissingExtra):
        text.load(source="verne")


def test_both_guards_compare_likelihoods_of_real_examples():
    pytest.importorskip("reasoning_gym", reason="needs the extra `demo`")
    sums = tasks.load("arithmetic", {"scorer": "nll", "size": 200})
    assert isinstance(sums, LikelihoodTask)
    assert [example.id for example in sums.examples.all] == [
        example.id for example in arithmetic.load(size=200).examples.all
    ]
    assert tasks.scoring_of("arithmetic", {"scorer": "nll"}) == tasks.scoring_of("text", {})
    verne = tasks.load("text", {"source": "verne"}, needed=("dev", "confirm"))
    assert not any("Gutenberg" in example.response for example in verne.examples.all)


def test_the_guard_is_prose_that_comes_with_python():
    task = tasks.load("text", {}, needed=("dev", "confirm"))
    texts = [example.response for example in task.examples.all]
    assert len(task.examples.of("confirm")) >= FEWEST_GROUPS  # enough for a grade
    assert min(map(len, texts)) >= 100
    assert not [text for text in texts if ">>>" in text or "::=" in text or not text.endswith(".")]
    assert "Python" in task.source["text"]
