"""A task of one's own: a file or an installed entry point, run only when the user allows it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_bench import llama

from gradience import tasks
from gradience.cli.app import run
from gradience.errors import InputError
from gradience.reports.bench_plan import BenchPlan
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


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with the entry point `lengths`, as pip leaves it behind."""
    folder = tmp_path / "site"
    (folder / "lengths_tasks" / "inner").mkdir(parents=True)
    (folder / "lengths_tasks" / "__init__.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
    )
    (folder / "lengths_tasks" / "inner" / "__init__.py").touch()
    (folder / "lengths_tasks" / "inner" / "metres.py").write_bytes(EXAMPLE.read_bytes())
    info = folder / "lengths_tasks-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lengths-tasks\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[gradience.tasks]\nlengths = lengths_tasks.inner.metres:load\n")
    monkeypatch.syspath_prepend(folder)
    yield folder / "lengths_tasks"
    for name in [name for name in sys.modules if name.startswith("lengths_tasks")]:
        del sys.modules[name]


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


def test_the_example_runs_alone_is_short_and_is_what_the_documentation_shows():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=True)
    assert "'confirm'" in done.stdout
    shown = (
        (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8").split("```python\n")[1].partition("```")[0]
    )
    lines = [line.partition("  #")[0].rstrip() for line in text.splitlines()]
    assert all(line in lines for line in shown.splitlines())


@pytest.mark.usefixtures("allowed")
def test_an_entry_point_is_found_by_its_name(package):
    assert tasks.load("lengths", {"size": 100}).name == "metres"


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


@pytest.mark.usefixtures("allowed")
def test_an_error_of_the_code_itself_keeps_its_traceback(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def load(*, size: int):\n    raise ValueError('a bug')\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a bug"):
        tasks.load(str(path), {"size": 1})
    path.write_text("import not_installed_here\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        tasks.load(str(path), {})


# ------------------------------------------------------------------ not allowed


@pytest.mark.parametrize("value", ["", "0", "true"])
def test_a_file_is_not_run_unless_it_is_allowed(trace, monkeypatch, value):
    monkeypatch.setenv("GRADIENCE_ALLOW_CODE", value)
    with pytest.raises(InputError, match="which is not allowed yet") as caught:
        tasks.load(str(trace), {})
    assert caught.value.code == "code-refused"
    assert "--allow-code" in caught.value.hint
    assert not trace.with_name("ran").exists()


def test_nor_is_a_package_with_an_entry_point_imported(package):
    with pytest.raises(InputError, match="which is not allowed yet"):
        tasks.load("lengths", {})
    assert not (package / "ran").exists()
    assert "lengths_tasks" not in sys.modules


@pytest.mark.parametrize(
    "profile", ["subprocess:getoutput", "os:system", "gradience.tasks.gsm8k:load", ":load"]
)
@pytest.mark.usefixtures("allowed")
def test_a_function_of_any_module_is_no_task(profile, tmp_path):
    with pytest.raises(InputError) as caught:
        tasks.load(profile, {"cmd": f"touch {tmp_path / 'ran'}"})
    assert caught.value.code == "task-unknown"
    assert "entry point" in caught.value.hint
    assert not (tmp_path / "ran").exists()


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    ("profile", "code", "hint"),
    [
        (f"{EXAMPLE}:load", "task-unknown", f"write `profile: {EXAMPLE}`"),
        ("no/such/file.py", "task-file", "check the path"),
        ("lengthz", "task-unknown", "did you mean `lengths`?"),
    ],
    ids=["file and function", "no file", "misspelt"],
)
def test_what_is_not_there(package, profile, code, hint):
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


def test_a_run_says_what_it_would_need_and_with_it_goes_to_a_verdict(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GRADIENCE_ALLOW_CODE", raising=False)
    config = write_config(tmp_path / "config.yaml", str(EXAMPLE), str(llama(tmp_path / "base")))
    command = ["bench", "run", "--config", str(config), "--output", str(tmp_path / "out")]
    assert run(command) == 3
    assert "--allow-code" in capsys.readouterr().err
    assert not (tmp_path / "out" / "plan.json").exists()
    assert run([*command, "--allow-code"]) in (0, 1)
    plan = BenchPlan.read(tmp_path / "out" / "plan.json")
    assert (plan.task_code.source, plan.task_code.name) == ("file", "custom_task.py")
    assert plan.task_code.sha256 == hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    assert not is_allowed()


def test_the_plan_says_which_package_an_entry_point_comes_from(package):
    code = tasks.code_of("lengths")
    assert (code.source, code.package) == ("entry point", "lengths-tasks 1.2")
    assert code.name == "lengths = lengths_tasks.inner.metres:load"
    assert code.sha256 == hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    assert not (package / "ran").exists()
    assert tasks.code_of("gsm8k") is None
