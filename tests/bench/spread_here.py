"""Runs of Bench over workers that are calls in this process."""

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bench_process import CONFIG
from tiny_bench import Watcher

from gradience.bench.config import load_config
from gradience.bench.run import on_ray
from gradience.bench.run.bench import run_bench
from gradience.bench.run.on_ray import StageOrder, make_stage

SECTIONS: dict[str, Any] = {
    "task": {"profile": "classification", "probe_gate": {"min_value": 0.01}},
    "train": CONFIG["train"] | {"save_steps": None},
    "compression": {"variants": ["uniform_median"], "controls": ["rewrite_control"], "stop_early": False},
    "seeds": [1, 2],
}


class Here:
    """Workers that are calls in this process; `plot` gives the error of a stage that is not made."""

    def __init__(self, plot: Any = None) -> None:
        self.plot = plot or (lambda name: None)
        self.waiting: list[tuple[StageOrder, Path]] = []
        self.orders: dict[str, tuple[StageOrder, int]] = {}
        """Seed and stage -> its order, and the GPUs that it was given."""
        self.done: Counter[str] = Counter()

    def submit(self, order: StageOrder, folder: Path, gpus: int) -> None:
        self.waiting.append((order, folder))
        self.orders[f"{order.seed}/{order.stage}"] = order, gpus

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
