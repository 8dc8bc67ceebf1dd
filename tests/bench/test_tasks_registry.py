"""Tasks by name: the right one, with options that are checked before anything is read."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest
from data_files import write_jsonl
from gsm8k_cases import QUESTIONS

from gradience.bench import tasks
from gradience.bench.tasks.base import GenerationTask
from gradience.bench.tasks.examples import ROLES
from gradience.errors import InputError, UsageError

ROOT = Path(__file__).parents[2]
EXAMPLE = f"{ROOT / 'examples' / 'custom_task.py'}:load"


@pytest.mark.parametrize("profile", tasks.PROFILES)
def test_every_profile_is_a_documented_function(profile):
    function = tasks.find(profile)
    assert function.__module__ == f"gradience.bench.tasks.{profile}"
    assert function.__doc__
    text = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    section = text.partition(f"\n### `{profile}`\n")[2].partition("\n### ")[0]
    assert section
    assert [name for name in signature(function).parameters if f"`{name}`" not in section] == []


def test_every_file_with_a_load_is_a_profile():
    folder = Path(tasks.__file__).parent
    loads = {p.stem for p in folder.glob("[a-z]*.py") if "\ndef load(" in p.read_text(encoding="utf-8")}
    assert loads == {*tasks.PROFILES}


def test_the_names_of_the_predecessor():
    assert tasks.find("seqcls_glue") is tasks.find("glue")
    assert tasks.find("gsm8k_causal_lm") is tasks.find("gsm8k")


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
        ("gsm9k", {}, "there is no task `gsm9k`", "did you mean `gsm8k`?"),
        ("zzz", {}, "there is no task `zzz`", "the tasks are arithmetic, glue"),
        ("gsm8k", {"annotation": "keep"}, "no option `annotation`", "did you mean `annotations`?"),
        ("gsm8k", {"annotations": "remove"}, "`annotations`: input should be 'keep' or 'strip'", ""),
        ("gsm8k", {"dev": "many"}, "`dev`: input should be a valid integer", ""),
        ("gsm8k", {"dev": -1}, "`dev`: input should be greater than or equal to 0", ""),
        ("gsm8k", {"dataset": 8}, "`dataset`: input should be a valid string", ""),
        ("glue", {}, "`subset`: missing required keyword", ""),
        ("text_classification", {"text_column": "a", "label_column": "b", "label_names": ["one"]},
         "`label_names`: list should have at least 2 items", ""),
    ],
)  # fmt: skip
def test_a_wrong_name_or_option_is_a_usage_error(profile, options, message, hint):
    with pytest.raises(UsageError) as caught:
        tasks.load(profile, options)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert caught.value.code in {"task-unknown", "task-option"}


def test_what_the_registry_loads():
    code = "import sys; from gradience.bench import tasks; [tasks.find(name) for name in tasks.PROFILES]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*{{name.partition('.')[0] for name in sys.modules}})"],
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"torch", "transformers", "datasets", "sklearn", "pandas", "reasoning_gym", "huggingface_hub"}
    assert not heavy & set(done.stdout.split())


# --- a user's own ---------------------------------------------------------------------------------


def test_the_example_of_the_documentation():
    task = tasks.load(EXAMPLE, {"size": 400})
    assert isinstance(task, GenerationTask)
    assert sum(len(task.examples.of(role)) for role in ROLES) == 400
    for item in task.examples.items:
        assert all(task.same(extract(item.response), item.answer) for extract in task.filters.values())
    with pytest.raises(UsageError, match="`size`: input should be a valid integer"):
        tasks.load(EXAMPLE, {"size": "large"})


def test_the_example_runs_alone_and_is_short():
    path = EXAMPLE.removesuffix(":load")
    assert len(Path(path).read_text(encoding="utf-8").splitlines()) <= 60
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, check=True)
    assert "'confirm'" in done.stdout


def test_a_module_is_found_where_python_finds_it(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text("from examples_of_mine import load\n", encoding="utf-8")
    source = Path(EXAMPLE.removesuffix(":load")).read_text(encoding="utf-8")
    (tmp_path / "examples_of_mine.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert tasks.load("my_tasks:load", {"size": 100}).name == "metres"
    with pytest.raises(UsageError, match="has no function `lode`") as caught:
        tasks.load("my_tasks:lode", {})
    assert caught.value.hint.startswith("did you mean `load`?")
    assert import_module("my_tasks")


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("no_such_package.tasks:load", "there is no module `no_such_package.tasks`"),
        ("no/such/file.py:load", "there is no such file"),
        ("my-tasks:load", "neither a module nor a file"),
        (":load", "neither a module nor a file"),
        ("json:tool_of_mine", "has no function `tool_of_mine`"),
    ],
)
def test_what_cannot_be_imported(profile, message):
    with pytest.raises(UsageError, match=message) as caught:
        tasks.load(profile, {})
    assert caught.value.code == "task-import"


def test_a_module_that_lacks_something_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_tasks.py").write_text("import not_installed_here\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        tasks.load("broken_tasks:load", {})


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("    return {'train': []}", "task-contract"),
        (
            "    return GenerationTask(name='none', examples=prepare([]), filters={},"
            " same=str.__eq__, max_new_tokens=1)",
            "task-empty",
        ),
    ],
)
def test_what_a_function_must_return(tmp_path, body, code):
    lines = [
        "from gradience.bench.tasks.base import GenerationTask",
        "from gradience.bench.tasks.examples import prepare",
        "def load():",
        body,
    ]
    path = tmp_path / "mine.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        tasks.load(f"{path}:load", {})
    assert caught.value.code == code


def test_an_error_of_the_function_itself_is_not_called_a_wrong_option(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def load(*, size: int):\n    raise ValueError('a bug')\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a bug"):
        tasks.load(f"{path}:load", {"size": 1})
