"""Runs of Bench over workers that are calls in this process."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bench_process import RUNTIME
from tiny_bench import Watcher

from gradience.bench.config.load import load_config
from gradience.bench.run import on_ray
from gradience.bench.run.bench import run_bench
from gradience.bench.run.on_ray import StageOrder, make_stage

SECTIONS: dict[str, Any] = {
    "task": {"profile": "classification", "probe_gate": {"min_value": 0.01}},
    "lora": {"probe_r": 8, "alpha": 16, "target_modules": ["query", "value", "output.dense"]},
    "train": {"lr": 3e-3, "max_steps": 30, "per_device_train_batch_size": 4, "max_length": 16},
    "compression": {"variants": ["uniform_median"], "controls": ["rewrite_control"], "stop_early": False},
    "runtime": RUNTIME,
    "seeds": [1, 2],
}


class Here:
    """Workers that are calls in this process; `plot` gives the error of a stage that is not made."""

    def __init__(self, plot: Any = None) -> None:
        self.plot = plot or (lambda name: None)
        self.waiting: list[tuple[StageOrder, Path]] = []
        self.gpus: dict[str, int] = {}
        self.done: Counter[str] = Counter()

    def submit(self, order: StageOrder, folder: Path, gpus: int) -> None:
        self.waiting.append((order, folder))
        self.gpus[f"{order.seed}/{order.stage}"] = gpus

    def ended(self) -> tuple[StageOrder, Exception | None]:
        order, folder = self.waiting.pop()  # the last first: no order is relied on
        name = f"{order.seed}/{order.stage}"
        if error := self.plot(name):
            return order, pickle.loads(pickle.dumps(error))  # as it comes from another process
        make_stage(order, folder)
        self.done[name] += 1
        return order, None

    def close(self) -> None:
        self.waiting.clear()


class Silent(Watcher):
    """Stages come in any order."""

    def stage(self, name: str, number: int, of: int | None) -> None:
        self.stages.append(name)


def runner_over(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run it over such workers, in a folder, with settings of the runtime."""

    def run(here: Here, output: Path, *overrides: str) -> Silent:
        monkeypatch.setattr(on_ray, "OnRay", lambda *_: here)
        watcher = Silent()
        config = load_config(config_file, ["runtime.executor=ray", *overrides])
        run_bench(config, output, watcher)
        return watcher

    return run
