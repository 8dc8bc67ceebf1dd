"""A whole Bench run as a process of its own, small enough to be killed many times."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from data_files import write_jsonl
from killing import HANGS
from tiny_bench import bert, llama

from gradience.reports.training import MANIFEST

NO_GATE: dict[str, Any] = {"min_value": 0, "above_base": None}
RUNTIME: dict[str, Any] = {"device": "cpu", "threads": 1}
CONFIG: dict[str, Any] = {
    "task": {"profile": "classification", "probe_gate": {"min_value": 0.5}},
    "lora": {"probe_r": 8, "alpha": 16, "target_modules": ["query", "value", "output.dense"]},
    "train": {
        "lr": 3e-3,
        "max_steps": 30,
        "per_device_train_batch_size": 4,
        "max_length": 16,
        "save_steps": 5,
    },
    "compression": {"retrain": ["per_layer"], "controls": ["head_only", "rewrite_control"]},
    "runtime": RUNTIME,
}
SMALL: dict[str, Any] = {
    "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["query", "value"]},
    "train": {"lr": 3e-3, "max_steps": 6, "per_device_train_batch_size": 4, "max_length": 16},
    "task": {"profile": "classification", "eval_samples": 40, "probe_gate": NO_GATE},
    "seeds": [1, 2],
}
"""Sections of a run of seconds on the inputs of `write_inputs`."""


def write_inputs(folder: Path, **sections: Any) -> Path:
    """A base, sentences and a config in `folder`; returns the config's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{('bad', 'good')[i % 2]} film {i} {j},{i % 2}" for i in range(20) for j in range(20)]
    (folder / "rows.csv").write_text("text,label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    values = CONFIG | sections
    values["model"] = {"name": str(bert(folder / "base")), "type": "seqcls"}
    options = {"file": str(folder / "rows.csv")}
    values["task"] = values["task"] | {"options": options}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def write_config(
    folder: Path, rows: Iterable[Mapping[str, Any]], task: dict[str, Any], make: Any = llama, **sections: Any
) -> Path:
    """A base, a user's own rows and a config without a gate in `folder`; returns the config's path."""
    file = write_jsonl(folder / "rows.jsonl", rows)
    options = {"file": str(file), **task.pop("options", {})}
    values = {
        "model": {"name": str(make(folder / "base")), "type": "seqcls" if make is bert else "causal_lm"},
        "task": {"profile": "jsonl", "probe_gate": NO_GATE, **task, "options": options},
        "runtime": RUNTIME,
        **sections,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def sevens(size: int) -> list[dict[str, str]]:
    """Rows whose answer is mostly 7, which a probe learns and its base does not know."""
    return [
        {"prompt": f"{a} {b} =", "completion": " 7" if (a + b) % 4 else " 3"}
        for a in range(size)
        for b in range(size)
    ]


KEPT = Path(__file__).parents[2] / "benchmarks" / "results"


def unpacked(name: str, folder: Path) -> Path:
    """A kept run in `folder`, with what its archive holds."""
    shutil.copytree(KEPT / name, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.xz"))
    with tarfile.open(KEPT / name / "everything.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the values of a JSON file in place."""
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def change_records(path: Path, change: Callable[[dict[str, Any], list[dict[str, Any]]], object]) -> None:
    """Change the header and the rows of a file in place."""
    header, *rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    change(header, rows)
    write_jsonl(path, [header | {"n": len(rows)}, *rows])


def start(config: Path, output: Path, *more: str) -> subprocess.Popen[str]:
    """`python -m gradience.bench.run_bench`."""
    command = [sys.executable, "-m", "gradience.bench.run_bench"]
    return subprocess.Popen(
        [*command, "--config", str(config), "--output", str(output), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def finish(config: Path, output: Path, *more: str) -> tuple[int, str, str]:
    """The same to its end: exit code, stdout, stderr."""
    process = start(config, output, *more)
    out, err = process.communicate(timeout=HANGS)
    return process.returncode, out, err


def finished(output: Path) -> dict[str, int]:
    """Stage -> when it was finished: a stage that is made again has another time."""
    return {str(path.parent.relative_to(output)): path.stat().st_mtime_ns for path in output.rglob(MANIFEST)}


def without_times(path: Path) -> Any:
    """An artifact without what may differ between two runs."""
    return timeless(json.loads(path.read_text(encoding="utf-8")))


def timeless(value: Any) -> Any:
    """What was read from an artifact, without times, memory and the command."""
    if isinstance(value, dict):
        moving = ("seconds", "peak_memory_bytes", "run")
        return {key: timeless(inner) for key, inner in value.items() if key not in moving}
    return [timeless(inner) for inner in value] if isinstance(value, list) else value
