"""The adapter gate: the steps of action.yml, run by bash as a runner runs them, and the hook for pre-commit."""

import contextlib
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from gradience.cli.app import run
from gradience.cli.demo import example_adapter

ROOT = Path(__file__).resolve().parent.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
SHIM = f"""#!/bin/sh
if [ "$2" = pip ]; then echo "$@" > "$RUNNER_TEMP/pip.txt"; else exec {sys.executable} "$@"; fi
"""
"""Records what pip is asked to install, instead of a download of a gigabyte."""


class Runner:
    """A clean folder with what GitHub's runner gives a composite action."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.temp = folder / "work", folder / "temp"
        self.folder.mkdir()
        self.temp.mkdir()
        python = self.temp / "python"
        python.write_text(SHIM)
        python.chmod(0o755)
        self.outputs: dict[str, dict[str, str]] = {}
        self.here: pytest.MonkeyPatch | None = None
        """Given: the gate and the verbs it runs stay in this process, where PyTorch is loaded."""

    def run(self, only: str | None = None, **given: str) -> int:
        """Run every step that has a script, or the one that is named; the exit code of the last."""
        inputs = {name: row.get("default", "") for name, row in ACTION["inputs"].items()}
        inputs |= {name.replace("_", "-"): value for name, value in given.items()}
        code = 0
        for place, step in enumerate(step for step in ACTION["runs"]["steps"] if "run" in step):
            if only in (None, step["name"]):
                code = self._step(step, inputs, place)
        return code

    def _step(self, step: dict[str, object], inputs: dict[str, str], place: int) -> int:
        def filled(text: str) -> str:
            def value(match: re.Match[str]) -> str:
                kind, *names = match[1].split(".")
                return inputs[names[0]] if kind == "inputs" else self.outputs[names[0]][names[-1]]

            return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)

        assert "${{" not in str(step["run"])  # an input is never pasted into a script
        script, output = self.temp / f"step{place}.sh", self.temp / f"output{place}"
        script.write_text(str(step["run"]))
        output.touch()
        environment = {
            **os.environ,
            "PATH": f"{self.temp}:{os.environ['PATH']}",
            "RUNNER_TEMP": str(self.temp),
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.temp / "summary.md"),
            **{name: filled(text) for name, text in dict(step.get("env", {})).items()},  # type: ignore[call-overload]
        }
        code = 0
        if self.here is not None and step.get("id") == "gate":
            gate_here(self.here, self.folder, environment)
        else:
            command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)]
            code = subprocess.run(command, cwd=self.folder, env=environment, check=False).returncode
        lines = [line.split("=", 1) for line in output.read_text().splitlines()]
        self.outputs[str(step.get("id"))] = dict(lines)
        return code


def gate_here(monkeypatch: pytest.MonkeyPatch, folder: Path, environment: dict[str, str]) -> None:
    """Run scripts/adapter_gate.py with function calls instead of processes, and 60 examples per guard."""
    few = ["--limit", "60"]

    def verb(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*command[3:], *few] if command[3] == "evaluate" else command[3:])
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    with monkeypatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts")
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        gate = importlib.import_module("adapter_gate")
        patch.setattr(gate, "subprocess", SimpleNamespace(run=verb))
        gate.main()


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path)


def scaled(folder: Path, factor: float) -> Path:
    weights = shutil.copytree(example_adapter(), folder) / "adapter_model.safetensors"
    tensors = load_file(weights)
    for name in tensors:
        if ".lora_B." in name:
            tensors[name] = (tensors[name].astype(np.float32) * factor).astype(ml_dtypes.bfloat16)
    save_file(tensors, weights, metadata={"format": "pt"})
    return folder


CASES = {
    "PASS": (1.0, "20", 0, "shown for these adapters"),
    "FAIL": (-1.0, "2.5", 1, "worse"),
    "INCONCLUSIVE": (1.02, "2.5", 8, "inconclusive"),
}


@pytest.mark.slow
@pytest.mark.parametrize("verdict", CASES)
def test_the_steps_end_with_the_verdict_and_write_the_summary(verdict, runner, tmp_path, monkeypatch):
    runner.here = None if verdict == "PASS" else monkeypatch
    factor, margin, expected, reason = CASES[verdict]
    given = {
        "adapter": str(scaled(tmp_path / "changed", factor)),
        "released": str(example_adapter()),
        "base_model": "embedded:minilm",
        "task": "reviews",
        "margin": margin,
        "arguments": "--limit 60",
        "guards": "reviews" if verdict == "FAIL" else "",
    }
    assert runner.run(**given) == expected
    assert shlex.split((runner.temp / "pip.txt").read_text())[-1] == f"{ROOT}[hf,report]"
    outputs = runner.outputs["gate"]
    assert (outputs["verdict"], outputs["exit-code"]) == (verdict, str(expected))
    summary = (runner.temp / "summary.md").read_text(encoding="utf-8")
    assert summary == (runner.folder / outputs["summary"]).read_text(encoding="utf-8")
    for part in (f"# Adapter gate: {verdict}", reason, "95 % bound", "Minimum detectable drop with 60",
                 "| LoRA rank | 8 | 8 |", "vLLM 0.32.0 refused other adapters of this kind"):  # fmt: skip
        assert part in summary
    assert ("## Guard `reviews`: FAIL" in summary) == (verdict == "FAIL")
    assert b"<html" in (runner.folder / outputs["report"]).read_bytes()
    if verdict == "INCONCLUSIVE":  # a result of its own: a workflow may accept it
        assert runner.run("Verdict", **given, fail_on_inconclusive="false") == 0
        assert runner.run("Verdict", **given) == 8


def test_an_error_ends_with_its_exit_code_and_says_what_is_wrong(runner):
    assert runner.run(adapter="absent", released=str(example_adapter()), task="reviews") == 3
    assert runner.outputs["gate"]["verdict"] == "ERROR"
    summary = (runner.temp / "summary.md").read_text(encoding="utf-8")
    assert "absent: no such file or folder" in summary
    assert runner.outputs["gate"]["report"] == ""


def test_the_hook_checks_each_configuration_of_a_commit_on_its_own(tmp_path):
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    good, bad = (tmp_path / name / "adapter_config.json" for name in ("good", "bad"))
    text = (example_adapter() / "adapter_config.json").read_text()
    for file, content in ((good, text), (bad, text.replace('"r": 8', '"r": 0'))):
        file.parent.mkdir()
        file.write_text(content)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def code(*files: Path) -> int:
        assert all(re.search(hook["files"], str(file)) for file in files)
        command = [*shlex.split(hook["entry"]), *map(str, files)]
        return subprocess.run(command, env=environment, check=False, capture_output=True).returncode

    assert code(good) == 0
    assert code(bad) == code(bad, good) == code(good, bad) != 0
