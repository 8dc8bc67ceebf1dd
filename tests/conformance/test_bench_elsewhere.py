"""Bench in a clean environment, on the embedded model, and in several processes."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from bench_process import finish, write_inputs
from safetensors.numpy import load_file
from tiny_bench import llama, sums

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.conformance

PUBLISHED = (["-e", f"{ROOT}[hf]"], ["transformers", "peft", "datasets", "accelerate", "safetensors"])
"""The two lines of the published description."""


def test_the_published_install_lines_are_enough_to_run_bench(tmp_path: Path) -> None:
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


def test_the_embedded_demo_goes_through_shortened(tmp_path: Path) -> None:
    code, text, errors = finish(
        Path("minilm_reviews_demo"), tmp_path, "--smoke", "task.probe_gate.min_value=0", "runtime.threads=1"
    )
    assert code in (0, 1), errors
    assert "smoke" in text.lower()
    bench = json.loads((tmp_path / "bench.json").read_text())
    assert bench["smoke"]
    assert bench["probe"]["n"] == 200
    assert bench["model"] == "embedded:minilm"


def test_the_number_of_processes_does_not_change_the_adapter(tmp_path: Path) -> None:
    """Two processes of two examples each against one of four: the same batches, the same sums up to rounding."""
    base = llama(tmp_path / "base")
    task = tmp_path / "sums.py"
    task.write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT / 'tests' / 'bench')!r})\nfrom tiny_bench import sums as load\n"
    )
    order = {
        "profile": str(task),
        "options": {},
        "data": sums().examples.fingerprint("train"),
        "model": {"name": str(base), "type": "causal_lm"},
        "lora": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        "recipe": {
            "max_steps": 8,
            "lr": 5e-3,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 2,
        },
        "seed": 42,
        "device": "cpu",
    }
    adapters = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        path = tmp_path / f"{processes}.json"
        path.write_text(json.dumps(order | {"output": str(folder)}))
        launcher = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={processes}",
        ]
        done = subprocess.run(
            [*launcher, "-m", "gradience.training.launch", path],
            env={**os.environ, "GRADIENCE_ALLOW_CODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads((folder / "training.json").read_text())["processes"] == processes
        adapters.append(load_file(folder / "adapter" / "adapter_model.safetensors"))
    one, two = adapters
    assert one.keys() == two.keys()
    assert any(np.abs(value).max() > 0 for name, value in one.items() if "lora_B" in name)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=1e-6)


def test_a_run_trains_in_two_processes(tmp_path: Path) -> None:
    config = write_inputs(tmp_path / "inputs")
    shared = [
        "runtime.processes=2",
        "train.gradient_accumulation_steps=2",
        "train.per_device_train_batch_size=2",
    ]
    code, _, errors = finish(config, tmp_path / "two", *shared)
    assert code in (0, 1), errors
    bench = json.loads((tmp_path / "two" / "bench.json").read_text())
    assert bench["environment"]["processes"] == 2
    assert all(variant["status"] != "ERROR" for variant in bench["variants"])
