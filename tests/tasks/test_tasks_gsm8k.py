"""GSM8K: the filters on outputs worth an argument, and the roles of the rows. The rows are our own."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import write_jsonl, write_repository
from gsm8k_cases import CASES, QUESTIONS
from hypothesis import given
from hypothesis import strategies as st

from gradience.errors import NetworkError
from gradience.tasks import gsm8k
from gradience.tasks.examples import ROLES

TRAIN, TEST = QUESTIONS[:30], QUESTIONS[30:]


@pytest.fixture
def files(tmp_path):
    return {
        "train_file": write_jsonl(tmp_path / "train.jsonl", TRAIN),
        "test_file": write_jsonl(tmp_path / "test.jsonl", TEST),
    }


# --- what counts as an answer ---------------------------------------------------------------------


@pytest.mark.parametrize(("output", "strict", "flexible"), CASES.values(), ids=CASES)
def test_filters(output, strict, flexible):
    assert gsm8k.strict(output) == strict
    assert gsm8k.flexible(output) == flexible


@pytest.mark.parametrize(
    ("extracted", "gold", "equal"),
    [
        ("1,080", "1080", True),
        ("$18", "18", True),
        ("$1,080.", "1,080", True),
        ("18.", "18", True),
        ("-5", "5", False),
        ("42.0", "42", False),
        ("042", "42", False),
        ("18..", "18", False),
        ("..", "18", False),
        ("12", "so 6+6=12\n#### 12", True),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_the_same_answer(extracted, gold, equal):
    assert gsm8k.same(extracted, gold) is equal


@given(st.integers(), st.integers())
def test_numbers_are_the_same_when_they_are_equal(one, other):
    assert gsm8k.same(f"${one:,}.", str(one))
    assert gsm8k.same(str(one), f"{other:,}") is (one == other)


def rows_of_the_document() -> list[list[str]]:
    text = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    table = text.partition("| output | `strict` |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in table]


@pytest.mark.parametrize("cells", rows_of_the_document(), ids=lambda cells: cells[0])
def test_the_worked_examples_of_the_document(cells):
    output, *expected, gold, right = cells
    answers = {name: extract(output) for name, extract in gsm8k.FILTERS.items()}
    assert [answers["strict"] or "–", answers["flexible"] or "–"] == expected
    solved = {name for name, answer in answers.items() if answer and gsm8k.same(answer, gold)}
    words = {"both": {"strict", "flexible"}, "neither": set()}
    word = right.partition(":")[0].strip("` ")
    assert solved == words.get(word, {word})


# --- which rows play which role -------------------------------------------------------------------


def test_test_confirms_and_dev_comes_out_of_train(files):
    task = gsm8k.load(**files)
    assert {role: len(task.examples.of(role)) for role in ROLES} == {"train": 24, "dev": 6, "confirm": 6}
    assert {item.prompt for item in task.examples.of("confirm")} == {
        f"Question: {row['question']}\nAnswer:" for row in TEST
    }
    assert task.examples.counts == {"rows": 36, "duplicates": 0, "conflicts": 0, "unparsable": 0}
    assert next(iter(task.filters)) == "strict"
    assert task.stop == ("Question:", "</s>", "<|im_end|>")
    assert task.max_new_tokens == 320
    assert task.source["confirm"].startswith("test.jsonl sha256:")


@pytest.mark.parametrize(
    "answer", ["6 + 6 = 12", "####12", "#### twelve", "#### $12", "#### 5 apples", "#### "], ids=str
)
def test_a_row_that_its_own_answer_would_not_solve_is_left_out_and_counted(files, tmp_path, answer):
    rows = [*TRAIN, {"question": "How many?", "answer": answer}]
    task = gsm8k.load(**files | {"train_file": write_jsonl(tmp_path / "more.jsonl", rows)})
    assert task.examples.counts == {"rows": 37, "duplicates": 0, "conflicts": 0, "unparsable": 1}
    assert all("How many?" not in item.prompt for item in task.examples.all)


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return write_repository(tmp_path / "gsm8k", "main", {"train": TRAIN, "test": TEST})


def test_the_hub_gives_the_same_examples_as_the_files(files, repository):
    task = gsm8k.load(dataset=str(repository))
    assert task.examples == gsm8k.load(**files).examples
    assert task.source["train"] == f"{repository}/main train"


def test_a_hub_out_of_reach_is_a_matter_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(NetworkError, match="openai/gsm8k/main test") as caught:  # conftest.py: offline
        gsm8k.load()
    assert "local files" in caught.value.hint
