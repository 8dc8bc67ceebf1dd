"""A config of `gradience evaluate`: its keys are the flags', its paths start at its folder, its errors name the key."""

from __future__ import annotations

import pytest
import yaml

from gradience.errors import GradienceError
from gradience.evaluate.inputs import read_inputs
from gradience.evaluate.settings import evaluate_settings
from gradience.tasks.user_code import allowing

WHOLE = {
    "adapters": ["a", "/abs/b"],
    "base_model": "./base",
    "data": "rows.jsonl",
    "options": {"scorer": "number"},
    "output": "out",
    "margin": 5,
    "limit": 7,
    "with_base": True,
}


@pytest.fixture
def config(tmp_path):
    """Writes a config into a folder that is not the working directory, and returns its path."""

    def write(values):
        path = tmp_path / "project" / "evaluate.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        return path

    return write


def test_paths_start_at_the_folder_of_the_file(config):
    path = config(WHOLE)
    request, folder = evaluate_settings({}, path), path.parent
    assert [str(each) for each in request.adapters] == [f"{folder}/a", "/abs/b"]
    assert (request.data, request.output, request.folder) == (folder / "rows.jsonl", folder / "out", folder)
    assert request.base_model == f"{folder}/base"
    assert (str(request.margin), request.limit, request.with_base) == ("5", 7, True)
    assert (
        evaluate_settings({}, config(WHOLE | {"folder": ".."})).data.resolve() == folder.parent / "rows.jsonl"
    )


@pytest.mark.parametrize("name", ["org/name", "gpt2", "embedded:minilm"])
def test_a_name_of_the_hub_is_no_path_unless_such_a_folder_is_there(config, name):
    path = config(WHOLE | {"base_model": name})
    assert evaluate_settings({}, path).base_model == name
    (path.parent / "gpt2").mkdir()
    assert (evaluate_settings({}, path).base_model == str(path.parent / "gpt2")) == (name == "gpt2")


def test_what_is_given_takes_the_place_of_what_the_file_says(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = config(WHOLE | {"task": "chat"})
    given = {"limit": 3, "options": {"max_new_tokens": 4}, "output": "here", "task": "mine.py"}
    request = evaluate_settings(given, path)
    assert (request.limit, str(request.output), str(request.task)) == (3, "here", str(tmp_path / "mine.py"))
    assert request.options == {"scorer": "number", "max_new_tokens": 4}
    assert evaluate_settings({"data": tmp_path / "x.csv"}, path).data == tmp_path / "x.csv"


@pytest.mark.parametrize(
    ("values", "given", "exit_code", "said", "hint"),
    [
        ({"adaptors": ["a"]}, {}, 3, "evaluate.yaml: unknown key `adaptors`", "did you mean `adapters`?"),
        ({"limit": 0}, {}, 3, "evaluate.yaml: `limit`: Input should be greater than", "configs.md"),
        ({"margin": "much"}, {}, 3, "`margin`: 'much' is not a number such as 0.5", "configs.md"),
        ({"dry_run": True}, {}, 3, "evaluate.yaml: unknown key `dry_run`", "configs.md"),
        ({"watcher": None}, {}, 3, "evaluate.yaml: unknown key `watcher`", "configs.md"),
        ({"allow_code": True}, {}, 3, "unknown key `allow_code`", "configs.md"),
        (
            {},
            {"role": "train"},
            2,
            "--role train: Input should be 'confirm' or 'dev'",
            "--help describes --role",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(config, values, given, exit_code, said, hint):
    with pytest.raises(GradienceError) as error:
        evaluate_settings(given, config(values))
    assert error.value.exit_code == exit_code
    assert said in str(error.value)
    assert hint in error.value.hint


def test_options_and_a_task_file_start_at_its_folder_too(config, monkeypatch):
    path = config({"adapters": [], "task": "mine.py", "options": {"file": "rows.jsonl"}})
    (path.parent / "rows.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n', encoding="utf-8")
    (path.parent / "mine.py").write_text(
        "from pathlib import Path\n\nfrom gradience.tasks.jsonl import load as rows\n\n\n"
        "def load(file: Path):\n    raise ValueError(str(file))\n"
    )
    monkeypatch.setattr("gradience.evaluate.inputs.adapter_inputs", lambda *_, **__: ())
    with allowing(), pytest.raises(ValueError, match=str(path.parent / "rows.jsonl")):
        read_inputs(evaluate_settings({}, path))
