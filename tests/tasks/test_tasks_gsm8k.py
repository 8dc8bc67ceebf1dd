"""GSM8K: the filters on outputs worth an argument, and the roles of the rows. The rows are our own."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from data_files import write_jsonl, write_repository
from gsm8k_cases import CASES, QUESTIONS
from hypothesis import given
from hypothesis import strategies as st

from gradience.errors import InputError, NetworkError, UsageError
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


@given(st.text().filter(lambda text: "####" not in text), st.integers())
def test_strict_finds_what_follows_the_marker(before, number):
    for written in (str(number), f"{number:,}"):
        assert gsm8k.strict(f"{before}\n#### {written}") == written


@given(st.text(), st.integers(), st.sampled_from(["", " ", " apples", "%", ")", "\n"]))
def test_flexible_finds_the_number_at_the_end(before, number, after):
    assert gsm8k.flexible(f"{before} {number}{after}") == str(number)


@given(st.text(alphabet="0123456789.,$-# x\n"))
def test_what_is_found_stands_in_the_output(output):
    for extract in gsm8k.FILTERS.values():
        answer = extract(output)
        assert answer is None or (answer and answer in output)


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


def test_the_answer_of_every_row_is_found_in_its_own_response(files):
    for kept in ("keep", "strip"):
        task = gsm8k.load(**files, annotations=kept)
        assert task.source["annotations"] == kept
        for item in task.examples.all:
            assert all(task.same(extract(item.response), item.answer) for extract in task.filters.values())
            assert ("<<" in item.response) is (kept == "keep")
            assert item.response.startswith(" There are ")


def test_the_order_of_the_rows_decides_nothing(files, tmp_path):
    shuffled = TRAIN.copy()
    random.Random(0).shuffle(shuffled)
    other = gsm8k.load(**files | {"train_file": write_jsonl(tmp_path / "shuffled.jsonl", shuffled)})
    assert other.examples == gsm8k.load(**files).examples


def test_a_test_question_falls_out_of_train_in_any_spelling(files, tmp_path):
    leaked = {**TEST[0], "question": TEST[0]["question"].upper() + " "}
    task = gsm8k.load(**files | {"train_file": write_jsonl(tmp_path / "leaky.jsonl", [*TRAIN, leaked])})
    assert task.examples.counts["duplicates"] == 1
    assert task.examples.of("confirm") == gsm8k.load(**files).examples.of("confirm")
    assert len(task.examples.of("train")) + len(task.examples.of("dev")) == len(TRAIN)


@pytest.mark.parametrize(
    "answer", ["6 + 6 = 12", "####12", "#### twelve", "#### $12", "#### 5 apples", "#### "], ids=str
)
def test_a_row_that_its_own_answer_would_not_solve_is_left_out_and_counted(files, tmp_path, answer):
    rows = [*TRAIN, {"question": "How many?", "answer": answer}]
    task = gsm8k.load(**files | {"train_file": write_jsonl(tmp_path / "more.jsonl", rows)})
    assert task.examples.counts == {"rows": 37, "duplicates": 0, "conflicts": 0, "unparsable": 1}
    assert all("How many?" not in item.prompt for item in task.examples.all)


def test_dev_is_as_large_as_asked(files):
    assert len(gsm8k.load(**files, dev=10).examples.of("dev")) == 10
    assert not gsm8k.load(**files, dev=0).examples.of("dev")
    with pytest.raises(UsageError, match="none of the 30 examples for training") as caught:
        gsm8k.load(**files, dev=30)
    assert caught.value.code == "task-dev"


def test_files_come_in_pairs(files):
    with pytest.raises(UsageError, match="only one of") as caught:
        gsm8k.load(train_file=files["train_file"])
    assert caught.value.code == "task-files"


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return write_repository(tmp_path / "gsm8k", "main", {"train": TRAIN, "test": TEST})


def test_the_hub_gives_the_same_examples_as_the_files(files, repository):
    task = gsm8k.load(dataset=str(repository))
    assert task.examples == gsm8k.load(**files).examples
    assert task.source["train"] == f"{repository}/main train"


def test_a_subset_that_is_not_there(repository):
    with pytest.raises(InputError, match="'socratic' not found") as caught:
        gsm8k.load(dataset=str(repository), subset="socratic")
    assert caught.value.code == "task-dataset"


def test_a_split_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(InputError, match="main test: Unknown split"):
        gsm8k.load(dataset=str(write_repository(tmp_path / "half", "main", {"train": TRAIN})))


def test_a_hub_out_of_reach_is_a_matter_of_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(NetworkError, match="openai/gsm8k/main test") as caught:  # conftest.py: offline
        gsm8k.load()
    assert "local files" in caught.value.hint


def test_a_folder_that_is_not_there():
    with pytest.raises(InputError):
        gsm8k.load(dataset=str(Path("no", "such", "folder", "at-all")))
