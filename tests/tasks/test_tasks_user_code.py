"""A task of one's own: a file, run only when the user allows it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradience import tasks
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.tasks.base import GenerationTask
from gradience.tasks.examples import ROLES
from gradience.tasks.user_code import allowing, is_allowed

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "custom_task.py"

LEAVES_A_TRACE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
def load():
    return 1
"""


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", "1")


@pytest.fixture
def trace(tmp_path):
    """A task file that says when it was run."""
    path = tmp_path / "trace.py"
    path.write_text(LEAVES_A_TRACE, encoding="utf-8")
    return path


def write_config(path: Path, profile: str, base: str = "embedded:smollm2") -> Path:
    gate = {"min_value": 0, "above_base": None}
    task = {"profile": profile, "options": {"size": 120}, "eval_samples": 4, "probe_gate": gate}
    path.write_text(
        json.dumps(
            {
                "model": {"name": base, "type": "causal_lm"},
                "task": task,
                "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["q_proj"]},
                "train": {"max_steps": 2, "lr": 1e-3, "per_device_train_batch_size": 2},
                "compression": {"variants": ["uniform_r2"], "arms": ["truncate"], "controls": []},
                "runtime": {"device": "cpu"},
            }
        )
    )  # fmt: skip
    return path


# ------------------------------------------------------------------ allowed


@pytest.mark.usefixtures("allowed")
def test_the_example_of_the_documentation():
    task = tasks.load(str(EXAMPLE), {"size": 400})
    assert isinstance(task, GenerationTask)
    assert sum(len(task.examples.of(role)) for role in ROLES) == 400
    for item in task.examples.all:
        assert all(task.same(extract(item.response), item.answer) for extract in task.filters.values())
    with pytest.raises(InputError, match="`size`: input should be a valid integer"):
        tasks.load(str(EXAMPLE), {"size": "large"})


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("    return {'train': []}", "task-contract"),
        (
            "    return GenerationTask(name='none', examples=prepare([]), filters={},"
            " same=str.__eq__, max_new_tokens=1)",
            "task-empty",
        ),
        ("    raise AssertionError\nload = 'no function'", "task-contract"),
    ],
    ids=["no task", "an empty task", "no function"],
)
def test_what_a_file_must_hold(tmp_path, body, code):
    lines = [
        "from gradience.tasks.base import GenerationTask",
        "from gradience.tasks.examples import prepare",
        "def load():",
        body,
    ]
    path = tmp_path / "mine.py"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        tasks.load(str(path), {})
    assert caught.value.code == code


# ------------------------------------------------------------------ not allowed


@pytest.mark.parametrize("value", ["", "0", "true"])
def test_a_file_is_not_run_unless_it_is_allowed(trace, monkeypatch, value):
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", value)
    with pytest.raises(InputError, match="which is not allowed yet") as caught:
        tasks.load(str(trace), {})
    assert caught.value.code == "code-refused"
    assert "--allow-code" in caught.value.hint
    assert not trace.with_name("ran").exists()


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("profile", "code", "hint"),
    [
        ("no/such/file.py", "task-file", "check the path"),
        ("arithmetik", "task-unknown", "did you mean `arithmetic`?"),
    ],
    ids=["no file", "misspelt"],
)
def test_what_is_not_there(profile, code, hint):
    with pytest.raises(InputError) as caught:
        tasks.load(profile, {})
    assert caught.value.code == code
    assert hint in caught.value.hint


def test_what_is_allowed_for_a_while_is_not_allowed_behind_it(monkeypatch):
    monkeypatch.delenv("GRADIENCE_ALLOW_CODE", raising=False)
    with allowing():
        assert is_allowed()
        seen = subprocess.run(
            [sys.executable, "-c", "from gradience.tasks.user_code import is_allowed; print(is_allowed())"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert seen.stdout == "True\n"  # a worker inherits it
    assert not is_allowed()
    with allowing(False):
        assert not is_allowed()


# ------------------------------------------------------------------ the command line


def test_a_file_cannot_allow_itself(trace, tmp_path, capsys):
    config = write_config(tmp_path / "config.yaml", str(trace))
    text = config.read_text()
    for place in ('{"allow_code": true, ', '{"runtime": {"allow_code": true}, '):
        config.write_text(place + text[1:].replace('"runtime": {"device": "cpu"}', '"seed": 1'))
        assert run(["bench", "run", "--config", str(config), "--output", str(tmp_path / "out")]) == 3
        assert "allow_code" in capsys.readouterr().err
    assert not trace.with_name("ran").exists()
