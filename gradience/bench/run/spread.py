"""A run whose stages are made by other processes: of this machine, or tasks of Ray.

This process makes nothing. It walks through each seed (orders.py), submits the stages whose inputs are there, and walks
again when something has ended, until every seed has its facts. So there is one order of stages, that of seed.py, and a
run that was killed continues with the finished stages, wherever they were made.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from gradience.bench.config.load import BenchConfig
from gradience.bench.run.ladder import uses_looks
from gradience.bench.run.live import LOG, logged
from gradience.bench.run.on_ray import OnRay
from gradience.bench.run.orders import DueStages, StageFailure, StageOrder
from gradience.bench.run.processes import Processes
from gradience.bench.run.seed import SeedRun
from gradience.bench.run.stages import Due
from gradience.bench.verdict.facts import SeedFacts
from gradience.bench.verdict.folders import folder_of_seed
from gradience.models.devices import devices_of
from gradience.progress import Watcher
from gradience.tasks.base import Task

logger = logging.getLogger("gradience.bench")


class Workers(Protocol):
    """Interface of an executor that makes stages."""

    def submit(self, order: StageOrder, folder: Path, gpus: int) -> bool:
        """Have a stage made in the folder of its seed. False if there is no room now."""

    def ended(self) -> list[tuple[StageOrder, StageFailure | None]]:
        """Wait until a stage has ended, and return what has. Nothing if none is being made."""

    def close(self) -> None:
        """End what is being made."""


@dataclass(slots=True)
class _Seed:
    run: SeedRun
    failed: dict[str, StageFailure]
    due: list[Due] = field(default_factory=list)
    facts: SeedFacts | None = None


@dataclass(slots=True)
class SpreadRun:
    """A run, and what makes its stages."""

    config: BenchConfig
    task: Task
    plan: str
    output: Path
    watcher: Watcher
    seeds: dict[int, _Seed] = field(init=False)
    at_work: set[tuple[int, str]] = field(default_factory=set)
    submitted: int = 0

    def __post_init__(self) -> None:
        self.seeds = {seed: self._seed(seed) for seed in self.config.due}

    def facts(self, workers: Workers) -> dict[int, SeedFacts]:
        """Have every stage made, and return the facts of each seed, failures included."""
        while not self._walk():
            self._submit(workers)
            for order, failure in workers.ended():
                self.at_work.remove((order.seed, order.stage))
                if failure is not None:
                    self._failed(order, failure)
        return {seed: of_seed.facts for seed, of_seed in self.seeds.items() if of_seed.facts is not None}

    def _seed(self, seed: int) -> _Seed:
        folder = folder_of_seed(self.output, self.config.seeds, seed)
        folder.mkdir(parents=True, exist_ok=True)
        failed = dict[str, StageFailure]()
        run = partial(SeedRun, self.config, self.task, seed, folder, uses_looks=uses_looks(self.config))
        return _Seed(run(plan=self.plan, stages=partial(DueStages, failed=failed)), failed)

    def _walk(self) -> bool:
        """Walk through the seeds that are not done. True once all are."""
        for of_seed in self.seeds.values():
            if of_seed.facts is None:
                of_seed.run.stages.passed.clear()  # type: ignore[attr-defined]  # DueStages
                facts, of_seed.due = of_seed.run.walk()
                of_seed.facts = None if of_seed.due else facts
        return all(of_seed.facts is not None for of_seed in self.seeds.values())

    def _submit(self, workers: Workers) -> None:
        """Submit what is due, in order: what needs a GPU waits behind what needs several."""
        queued = False
        for seed, of_seed in self.seeds.items():
            for due in of_seed.due:
                gpus = self._gpus(due.stage, of_seed.run)
                if (seed, due.stage) in self.at_work or (gpus and queued):
                    continue
                order = StageOrder(_whole(self.config), self.plan, seed, due.stage, due.key, due.inputs)
                if not workers.submit(order, of_seed.run.folder, gpus):
                    queued = True
                    continue
                self.at_work.add((seed, due.stage))
                self.submitted += 1
                self.watcher.seed(seed, self.config.due.index(seed) + 1, len(self.config.due))
                self.watcher.stage(due.stage, self.submitted, None)

    def _gpus(self, stage: str, run: SeedRun) -> int:
        """GPUs that a stage needs on a machine that has some. Audits and truncations are numpy's work."""
        kind = stage.rpartition("/")[2]
        if kind == "audit" or (kind == "adapter" and stage not in run.distilled):
            return 0
        return self.config.runtime.processes if kind == "train" else 1

    def _failed(self, order: StageOrder, failure: StageFailure) -> None:
        self.watcher.note(f"{order.stage}: failed: {failure.message}")
        of_seed = self.seeds[order.seed]
        of_seed.failed[order.stage] = failure
        name = order.stage.rpartition("/")[0] or order.stage
        with logged(of_seed.run.folder / LOG):
            lines = failure.log or (f"{failure.kind}: {failure.message}",)
            logger.error("seed %d: %s failed\n%s", order.seed, name, "\n".join(lines))


def run_spread(
    config: BenchConfig, task: Task, plan: str, output: Path, watcher: Watcher
) -> Mapping[int, SeedFacts]:
    """Have the seeds of `config` made by other processes, and return the facts of each.

    Raises MissingExtra without Ray, UsageError (`too-few-gpus`), NetworkError (`ray-lost`), and what cannot be written.
    """
    runtime = config.runtime
    with closing(
        OnRay(runtime.device, runtime.workers, torch.get_num_threads())
        if runtime.executor == "ray"
        else Processes(runtime.device, runtime.workers, watcher.note)
    ) as workers:
        return SpreadRun(config, task, plan, output, watcher).facts(workers)


def is_spread(config: BenchConfig) -> bool:
    """Return True if other processes make the stages: on a cluster, or with several GPUs or workers on this
    machine.
    """
    runtime = config.runtime
    return runtime.executor == "ray" or (runtime.workers or len(devices_of(runtime.device))) > 1


def _whole(config: BenchConfig) -> dict[str, Any]:
    """Return the config with all defaults, absolute paths, and the settings that must be equal on every
    machine.

    Threads: this machine's number, since Ray's tasks and torchrun's processes would use one. Device: only its
    kind, since a process sees its assigned GPU as the first.
    """
    values = config.model_dump(mode="json")
    values["runtime"]["threads"] = torch.get_num_threads()
    values["runtime"]["device"] = config.runtime.device.partition(":")[0]
    for name, section in (("task", config.task), ("model", config.model)):
        values[name]["folder"] = str(Path(section.folder or "").resolve())
    return values
