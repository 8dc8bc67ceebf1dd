"""Runs of Bench over an executor whose processes are calls in this one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bench_process import write_inputs
from tiny_bench import Watcher

from gradience.bench import stage as command
from gradience.bench.config.load import load_config
from gradience.bench.run import spread
from gradience.bench.run.bench import run_bench
from gradience.bench.run.needs import Needs
from gradience.executors.executor import DONE, Ended
from gradience.report.faces import to_markdown

SECTIONS: dict[str, Any] = {
    "task": {"profile": "text_classification", "probe_gate": {"min_value": 0.01}},
    "lora": {"probe_r": 8, "alpha": 16, "target_modules": ["query", "value", "output.dense"]},
    "train": {"lr": 3e-3, "max_steps": 30, "per_device_train_batch_size": 4, "max_length": 16},
    "compression": {"variants": ["uniform_median"], "controls": ["aa"], "stop_early": False},
    "runtime": {"device": "cpu", "threads": 1},
    "seeds": [1, 2],
}


class Here:
    """An executor whose processes are calls in this one; `plot` says what becomes of a stage before it is made."""

    def __init__(self, plot: Any = None) -> None:
        self.plot = plot or (lambda name, times: None)
        self.jobs: list[Any] = []
        self.seen: list[Any] = []
        self.times: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    room = None
    has_gpus = False

    def submit(self, job: Any) -> None:
        self.jobs.append(job)
        self.seen.append(job)

    def ended(self, seconds: float) -> list[Ended]:
        if not self.jobs:
            return []
        job = self.jobs.pop()  # the last first: no order is relied on
        self.times[job.name] += 1
        code = self.plot(job.name, self.times[job.name])
        if code is None:
            code = command.main([job.command[-1]])
            self.done[job.name] += code == DONE
        return [Ended(job.name, code)]

    def close(self) -> None:
        self.jobs.clear()


def write_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"), **SECTIONS)


class Silent(Watcher):
    """Stages come in any order."""

    def stage(self, name: str, number: int, of: int | None) -> None:
        self.stages.append(name)


def runner_over(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run it over an executor, in a folder, with settings of the runtime."""

    def run(executor: Here, output: Path, *overrides: str) -> Silent:
        monkeypatch.setattr(spread, "executor", lambda name, order: executor)
        monkeypatch.setattr(spread, "AGAIN", 0.0)
        monkeypatch.setattr(
            spread.Needs, "of", lambda config, on_gpus: Needs(1, 1, None)
        )  # a processor is not measured
        watcher = Silent()
        config = load_config(config_file, ["runtime.workers=2", *overrides])
        run_bench(config, output, watcher, page_of=to_markdown)
        return watcher

    return run
