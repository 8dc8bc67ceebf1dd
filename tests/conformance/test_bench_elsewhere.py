"""Bench in a clean environment, and on the embedded model."""

import json
import subprocess
import venv
from pathlib import Path

import pytest
from bench_process import finish, write_inputs

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.conformance

PUBLISHED = (["-e", f"{ROOT}[hf]"], ["transformers", "peft", "datasets", "accelerate", "safetensors"])
"""The two lines of the published description."""


def test_the_published_install_lines_are_enough_to_run_bench(tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    for line in PUBLISHED:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *line], check=True)
    config = write_inputs(tmp_path / "inputs")
    done = subprocess.run(
        [python, "-m", "gradience.bench.run_bench", "--config", config, "--output", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode in (0, 1), done.stderr
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["status"] in ("PASS", "FAIL")


def test_the_embedded_demo_goes_through_shortened(tmp_path):
    code, text, errors = finish(
        Path("minilm_reviews_demo"), tmp_path, "--smoke", "task.probe_gate.min_value=0", "runtime.threads=1"
    )
    assert code in (0, 1), errors
    assert "smoke" in text.lower()
    bench = json.loads((tmp_path / "bench.json").read_text())
    assert bench["smoke"]
    assert bench["probe"]["n"] == 200
    assert bench["model"] == "embedded:minilm"
