"""A user's own rows: what is wrong is named by file and line, and no row is on both sides of a split."""

from __future__ import annotations

from pathlib import Path

import pytest
from data_files import write_jsonl

from gradience import tasks
from gradience.errors import GradienceError, InputError, UsageError
from gradience.tasks.examples import ROLES, content_id, role_of

PROMPTS = [{"id": f"q{n}", "prompt": f"{n} - 1 =", "answer": n - 1} for n in range(30)]
LABELS = [{"text": f"text {n}", "label": ("no", "yes")[n % 2]} for n in range(30)]
MESSAGES = [{"messages": [{"role": "user", "content": "Hi"}]}]


def load(folder: Path, rows, profile="jsonl", **options):
    return tasks.load(profile, {"file": write_jsonl(folder / "a.jsonl", rows), **options})


def test_prompts_and_answers_become_examples_that_keep_their_ids(tmp_path):
    task = load(tmp_path, PROMPTS)
    assert {item.id for item in task.examples.all} == {row["id"] for row in PROMPTS}
    seven = next(item for item in task.examples.all if item.id == "q7")
    assert (seven.prompt, seven.response, seven.answer) == ("7 - 1 =", " 6", "6")
    assert seven.role == role_of(content_id("7 - 1 ="))
    assert task.examples.counts == {"rows": 30, "duplicates": 0, "conflicts": 0}
    assert task.scoring == "jsonl 1, exact"


def test_signs_make_another_example_and_spellings_share_a_role(tmp_path):
    rows = [{"prompt": f"{n} {sign} 1", "answer": "x"} for n in range(30) for sign in "+-*"]
    task = load(tmp_path, rows)
    assert len(task.examples.all) == 90
    roles = {}
    for item in task.examples.all:
        roles.setdefault(item.prompt.split()[0], set()).add(item.role)
    assert all(len(some) == 1 for some in roles.values())


def test_a_completion_is_trained_as_it_is_and_the_answer_is_what_the_scorer_finds_in_it(tmp_path):
    rows = [{"prompt": f"{n}?", "completion": f"\nIt is {n}, so {n}"} for n in range(30)]
    item = load(tmp_path, rows, scorer="number").examples.all[0]
    assert item.response == f"\nIt is {item.answer}, so {item.answer}"
    task = load(tmp_path, rows, scorer="regex", pattern=r"so (\d+)")
    assert {e.answer for e in task.examples.all} == {str(n) for n in range(30)}


@pytest.mark.parametrize(
    ("rows", "code", "message", "hint"),
    [
        ([{"prmpt": "x", "answer": "y"}], "task-column", "line 1: no column `prompt`", "mean `prmpt`"),
        ([{"prompt": "", "answer": "y"}], "task-text", "line 1: column `prompt` is empty", "remove the row"),
        ([{"prompt": 3, "answer": "y"}], "task-text", "line 1: column `prompt` contains 3", ""),
        ([{"prompt": "x", "answer": " "}], "task-text", "line 1: neither `completion` nor `answer`", "remove rows"),
        ([*PROMPTS, {"prompt": "x", "answer": None}], "task-text", "line 31: neither", "remove rows"),
        ([*PROMPTS, {"id": "q3", "prompt": "x", "answer": 1}], "task-id",
         "line 31: the id 'q3' is also that of line 4", "remove the ids"),
        ([{"id": [1], "prompt": "x", "answer": 1}], "task-id", "line 1: the id is [1]", "in quotes"),
        (LABELS, "task-kind", "line 1: has `text` and `label`", "the task `classification` reads such rows"),
        (MESSAGES, "task-kind", "line 1: has `messages`", "the task `chat` reads such rows"),
        ([*PROMPTS, *LABELS], "task-kind", "line 31: has `text` and `label`", "a file of their own"),
        ([*PROMPTS, {"prompt": "x", "completion": "1"}], "task-kind",
         "line 31: has `completion`, but earlier rows have `answer`", "the same fields"),
        ([{"prompt": "x", "completion": "It is 5.", "answer": "5"}], "task-answer",
         "line 1: its own response would be scored wrong: `exact` finds 'It is 5.'", "another scorer"),
        ([{"prompt": "\ud83d", "answer": 1}], "task-row", "half of a character", ""),
        ([{"frage": "x", "antwort": "y"}], "task-column", "line 1: no column `prompt`", "rename one to `prompt`"),
        ([], "task-empty", "no train examples", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, rows, code, message, hint):
    with pytest.raises(InputError) as caught:
        load(tmp_path, rows)
    assert caught.value.code == code
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_a_row_in_two_files_is_refused_with_both_places(tmp_path):
    train = write_jsonl(tmp_path / "train.jsonl", PROMPTS)
    confirm = write_jsonl(tmp_path / "test.jsonl", [{"prompt": "new", "answer": 1}, PROMPTS[3]])
    with pytest.raises(
        InputError, match=r"train\.jsonl: line 4: the same as .*test\.jsonl: line 2"
    ) as caught:
        tasks.load("jsonl", {"train_file": train, "confirm_file": confirm})
    assert caught.value.code == "task-leak"


def test_files_that_number_their_rows_alike_keep_their_roles(tmp_path):
    files = {
        f"{role}_file": write_jsonl(
            tmp_path / f"{role}.jsonl",
            [{"id": n, "prompt": f"{role} {n}", "answer": n} for n in range(20)],
        )
        for role in ("train", "confirm")
    }
    task = tasks.load("jsonl", {**files, "dev": 5})
    assert {role: len(task.examples.of(role)) for role in ROLES} == {"train": 15, "dev": 5, "confirm": 20}
    assert all(item.prompt.startswith("confirm") for item in task.examples.of("confirm"))


@pytest.mark.parametrize("names", [("train",), ("file", "train", "confirm"), ("dev", "confirm")])
def test_files_that_leave_the_roles_open(tmp_path, names):
    path = write_jsonl(tmp_path / "a.jsonl", PROMPTS)
    options = {name if name == "file" else f"{name}_file": path for name in names}
    with pytest.raises(UsageError) as caught:
        tasks.load("jsonl", options)
    assert caught.value.code == "task-files"


# --- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "options", "code", "message"),
    [
        (PROMPTS, {}, "task-kind", "has `prompt` and `completion` or `answer`, and this task needs `text` and `label`"),
        ([*LABELS, {"text": "x", "label": ""}], {}, "task-text", "line 31: column `label` is empty"),
        (LABELS, {"label_names": ["no", "si"]}, "task-label", "line 2: `yes` is not one of the labels no, si"),
        (LABELS[::2], {}, "task-label", "its labels are no"),
        ([*LABELS, LABELS[0] | {"text": 5}], {}, "task-text", "line 31: column `text` contains 5"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_labels_is_named(tmp_path, rows, options, code, message):
    with pytest.raises(GradienceError) as caught:
        load(tmp_path, rows, "classification", **options)
    assert caught.value.code == code
    assert message in str(caught.value)


# --- where files lie ------------------------------------------------------------------------------


def test_relative_paths_start_at_the_folder(tmp_path):
    write_jsonl(tmp_path / "data" / "a.jsonl", PROMPTS)
    task = tasks.load("jsonl", {"file": "data/a.jsonl"}, folder=tmp_path)
    assert (
        task.examples
        == tasks.load("jsonl", {"file": str(tmp_path / "data/a.jsonl")}, folder=Path("no")).examples
    )
    with pytest.raises(InputError, match=r"data/a\.jsonl: no such file"):
        tasks.load("jsonl", {"file": "data/a.jsonl"})


# --- the examples of the page ---------------------------------------------------------------------


def test_labels_by_their_names(tmp_path):
    task = load(tmp_path, LABELS, "classification")
    assert task.label_names == ("no", "yes")
    assert {e.text: task.label_names[e.label] for e in task.examples.all} == {
        row["text"]: row["label"] for row in LABELS
    }
    turned = load(tmp_path, LABELS, "classification", label_names=["yes", "no"])
    assert [1 - e.label for e in turned.examples.all] == [e.label for e in task.examples.all]


def test_pairs_of_texts(tmp_path):
    pairs = [{**row, "text_pair": f"second {n}"} for n, row in enumerate(LABELS)]
    task = load(tmp_path, pairs, "classification")
    assert {(e.text, e.text_pair) for e in task.examples.all} == {(r["text"], r["text_pair"]) for r in pairs}
    with pytest.raises(InputError, match="line 31: column `text_pair` has a text in some rows only"):
        load(tmp_path, [*pairs, {"text": "x", "label": "no"}], "classification")
