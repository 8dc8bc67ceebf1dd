"""The results of a run are made to be shared: they name no folder above a file, and the run resumes all the same."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_process import write_inputs
from tiny_bench import bert

from gradience.cli.app import run

SECTIONS: dict[str, Any] = {
    "lora": {"probe_r": 4, "alpha": 8, "target_modules": ["query", "value"]},
    "train": {"lr": 3e-3, "max_steps": 6, "per_device_train_batch_size": 4, "max_length": 16},
    "compression": {"arms": ["truncate"], "variants": ["uniform_r2"], "controls": []},
    "task": {"profile": "classification", "eval_samples": 40, "probe_gate": {"min_value": 0}},
    "seeds": [1, 2],
}
NOT_TO_BE_SHARED = {"adapter_config.json", "config.yaml", "run.log"}
"""The base's path, by which PEFT loads it; the config, by which the run is repeated; tracebacks."""


def bench_run(*words: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """`gradience bench run`; its command line is that of the process, as a user has it."""
    arguments = ["bench", "run", "--quiet", *map(str, words)]
    monkeypatch.setattr(sys, "argv", ["gradience", *arguments])
    return run(arguments)


def stages(output: Path) -> dict[Path, int]:
    """When the manifest of each stage was written."""
    return {path: path.stat().st_mtime_ns for path in output.rglob("manifest.json")}


def test_a_run_in_a_home_folder_names_it_nowhere_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home" / "alice"
    config, output = write_inputs(home / "inputs", **SECTIONS), home / "runs" / "mine"
    words = ("--config", config, "--output", output)
    assert bench_run(*words, monkeypatch=monkeypatch) in (0, 1, 8), capsys.readouterr().err
    aggregate = home / "together"
    run(["bench", "aggregate", *map(str, output.glob("seed_*")), "--output", str(aggregate), "--quiet"])

    written = [path for folder in (output, aggregate) for path in folder.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert names >= {"plan.json", "bench.json", "bench.md", "bench_aggregate.json", "bench_aggregate.md"}
    assert names >= {"audit.json", "training.json", "manifest.json"}
    assert any(name.endswith(".records.jsonl") for name in names)
    naming = {path.name for path in written if b"alice" in path.read_bytes()}
    assert naming <= NOT_TO_BE_SHARED, naming - NOT_TO_BE_SHARED
    assert "adapter_config.json" in naming

    finished = stages(output)
    shutil.rmtree(max(finished).parent)  # one stage, as if the run had died before it
    assert bench_run(*words, monkeypatch=monkeypatch) in (0, 1, 8), capsys.readouterr().err
    assert [path for path, when in stages(output).items() if finished.get(path) != when] == [max(finished)]

    # The plan holds the last part of the base's name alone: another base under the same last part is told apart.
    other = bert(tmp_path / "elsewhere" / "base")
    capsys.readouterr()
    assert bench_run(*words, f"model.name={other}", monkeypatch=monkeypatch) == 2
    assert "contains a run of another config: `model.name` is" in capsys.readouterr().err
    before = stages(output)
    weights = home / "inputs" / "base" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert bench_run(*words, monkeypatch=monkeypatch) in (0, 1, 8), capsys.readouterr().err
    after = stages(output)
    assert [path for path in before if before[path] == after[path]] == []  # nothing of two bases is mixed
