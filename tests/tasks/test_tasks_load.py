"""Tasks by name: the right one, with options that are checked before anything is read."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import pytest
from data_files import write_jsonl
from gsm8k_cases import QUESTIONS

from gradience import tasks
from gradience.errors import InputError
from gradience.tasks.examples import ROLES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("profile", tasks.PROFILES)
def test_every_profile_is_a_documented_function(profile):
    function = tasks.find(profile)
    assert function.__module__ == f"gradience.tasks.{profile}"
    assert function.__doc__
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{profile}`\n")[2].partition("\n### ")[0]
    assert section
    assert [name for name in signature(function).parameters if f"`{name}`" not in section] == []


def test_every_file_with_a_load_is_a_profile():
    folder = Path(tasks.__file__).parent
    loads = {p.stem for p in folder.glob("[a-z]*.py") if "\ndef load(" in p.read_text(encoding="utf-8")}
    assert loads == {*tasks.PROFILES}


def test_options_arrive_with_their_types(tmp_path):
    options = {
        "train_file": str(write_jsonl(tmp_path / "train.jsonl", QUESTIONS[:30])),
        "test_file": str(write_jsonl(tmp_path / "test.jsonl", QUESTIONS[30:])),
        "dev": 4,
    }
    task = tasks.load("gsm8k", options)
    assert {role: len(task.examples.of(role)) for role in ROLES} == {"train": 26, "dev": 4, "confirm": 6}


@pytest.mark.parametrize(
    ("profile", "options", "message", "hint"),
    [
        ("gsm9k", {}, "no task is called `gsm9k`", "did you mean `gsm8k`?"),
        ("zzz", {}, "no task is called `zzz`", "the tasks are arithmetic, chat, classification"),
        ("gsm8k", {"subse": "main"}, "no option `subse`", "did you mean `subset`?"),
        ("gsm8k", {"dev": "many"}, "`dev`: input should be a valid integer", ""),
        ("gsm8k", {"dev": -1}, "`dev`: input should be greater than or equal to 0", ""),
        ("gsm8k", {"dataset": 8}, "`dataset`: input should be a valid string", ""),
        ("glue", {}, "`subset`: missing required keyword", ""),
        ("classification", {"label_names": ["one"]},
         "`label_names`: list should have at least 2 items", ""),
    ],
)  # fmt: skip
def test_a_wrong_name_or_option_is_refused(profile, options, message, hint):
    with pytest.raises(InputError) as caught:
        tasks.load(profile, options)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.code in {"task-unknown", "task-option"}
