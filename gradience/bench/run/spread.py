"""A run whose stages are made by other processes: what is due goes to an executor, and what has ended is looked at.

This process makes nothing. It walks through each seed (due.py), hands in the stages whose inputs are there, and walks
again when something has ended, until every seed has its facts. So there is one order of stages, that of seed.py, and a
run that was killed goes on from what is there, wherever it was made.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from gradience.artifacts.stage_spec import StageFailure, StageSpec
from gradience.bench.config.load import BenchConfig
from gradience.bench.run.due import DueStages
from gradience.bench.run.last_words import last_lines, last_words
from gradience.bench.run.needs import Needs
from gradience.bench.run.places import (
    SHARED,
    failure_name,
    folder_of_seed,
    is_address,
    log_name,
    place_of,
    spec_name,
)
from gradience.bench.run.seed import SeedRun
from gradience.bench.run.shelf import Shelf
from gradience.bench.run.stages import Due, StorageAway
from gradience.bench.verdict.facts import SeedFacts
from gradience.errors import NetworkError
from gradience.evaluate.engines.vllm.environment import BATCH_INVARIANT
from gradience.evaluate.engines.vllm.interpreter import PYTHON
from gradience.executors import executor
from gradience.executors.executor import DONE, FAILED, RETRY, Ended, Executor, Job, Order
from gradience.models.devices import devices_of
from gradience.progress import Watcher
from gradience.storage.place import Place
from gradience.tasks.base import Task
from gradience.tasks.user_code import ALLOW

LOOK = 10.0
"""Seconds after which the run looks again, though nothing has ended."""
AGAIN, DOUBLED = 2.0, 5
"""Seconds until a stage that another process holds is tried again, and how often they are doubled."""
CARRIED = (ALLOW, PYTHON, BATCH_INVARIANT)
"""Variables that decide what a stage makes, or whether it can: those of this process are those of every stage."""
ATTEMPTS = 3
"""Of a stage whose process was ended from outside."""


@dataclass(slots=True)
class _Seed:
    """One seed of the run."""

    run: SeedRun
    failed: dict[str, StageFailure]
    due: list[Due] = field(default_factory=list)
    facts: SeedFacts | None = None


@dataclass(slots=True)
class Spread:
    """A run, and the executor that makes its stages."""

    config: BenchConfig
    task: Task
    plan_digest: str
    output: Path
    watcher: Watcher
    place: Place = field(init=False)
    needs: Needs = field(init=False)
    seeds: dict[int, _Seed] = field(init=False)
    flying: dict[str, tuple[int, Due]] = field(default_factory=dict)
    later: dict[str, float] = field(default_factory=dict)
    attempts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    """How often a stage was left to another process."""
    handed: int = 0
    away: float | None = None
    """Since when the storage cannot be reached; None while it can."""

    def __post_init__(self) -> None:
        self.place = place_of(self.storage, self.plan_digest)
        self.place.check_exclusive()
        self.seeds = {seed: self._seed(seed) for seed in self.config.due}

    @property
    def storage(self) -> str:
        """The address of the storage; without one the folder of the run, which all machines see."""
        return self.config.runtime.storage or str(self.output.resolve())

    def facts(self) -> dict[int, SeedFacts]:
        """Have every stage made, and return what each seed yielded. What failed is in the facts."""
        runtime = self.config.runtime
        order = Order(
            workers=runtime.workers,
            device=runtime.device,
            environment={name: os.environ[name] for name in CARRIED if name in os.environ},
        )
        with closing(executor(runtime.executor, order)) as machines:
            self.needs = Needs.of(self.config, on_gpus=machines.has_gpus)
            while not self._looked(machines):
                for ended in machines.ended(self._patience()):
                    self._took(ended)
        return {seed: each.facts for seed, each in self.seeds.items() if each.facts is not None}

    # ------------------------------------------------------------ what is due

    def _seed(self, seed: int) -> _Seed:
        folder = folder_of_seed(self.output, self.config.seeds, seed)
        folder.mkdir(parents=True, exist_ok=True)
        failed: dict[str, StageFailure] = {}
        shelf = Shelf(self.place, folder, seed) if is_address(self.storage) else None
        stages = partial(DueStages, failed=failed, shelf=shelf)
        return _Seed(
            SeedRun(self.config, self.task, seed, folder, plan=self.plan_digest, stages=stages), failed
        )

    def _looked(self, machines: Executor) -> bool:
        """Whether all is done; else what is due is handed in. A storage that is away for a while is waited for."""
        try:
            if self._look():
                return True
        except StorageAway as away:
            return self._waits(away.error)
        try:
            self._hand_in(machines)
        except NetworkError as error:
            return self._waits(error)
        self.away = None
        return False

    def _waits(self, error: NetworkError) -> Literal[False]:
        """Raises the error of a storage that has been away for as long as a lease lasts."""
        if self.away is None:
            self.away = time.monotonic()
            self.watcher.note(f"the storage is away: {error}")
        if time.monotonic() - self.away > self.config.runtime.takeover:
            raise error
        return False

    def _look(self) -> bool:
        """Walk through the seeds that are not done; whether all are."""
        for each in self.seeds.values():
            if each.facts is None:
                facts, each.due = each.run.walk()
                each.facts = None if each.due else facts
        return all(each.facts is not None for each in self.seeds.values())

    def _hand_in(self, machines: Executor) -> None:
        now = time.monotonic()
        for seed, each in self.seeds.items():
            for due in each.due:
                name = f"{seed}/{due.stage}"
                if machines.room == 0:
                    return
                if name not in self.flying and self.later.get(name, 0) <= now:
                    self._submit(machines, seed, due, name)

    def _submit(self, machines: Executor, seed: int, due: Due, name: str) -> None:
        self.handed += 1
        self.watcher.seed(seed, self.config.due.index(seed) + 1, len(self.config.due))
        self.watcher.stage(due.stage, self.handed, None)
        spec = self._spec(seed, due)
        self.place.remove(failure_name(seed, due.stage))  # of an earlier run: not why this one fails
        self.place.write(spec_name(seed, due.stage), spec.to_json().encode())
        command = [
            sys.executable,
            "-m",
            "gradience.bench.stage",
            self.place.address(spec_name(seed, due.stage)),
        ]
        machines.submit(Job(name, command, spec.needs, self._log(seed, due)))
        self.flying[name] = seed, due
        self.later.pop(name, None)

    def _spec(self, seed: int, due: Due) -> StageSpec:
        runtime = self.config.runtime
        return StageSpec(
            stage=due.stage,
            seed=seed,
            key=due.key,
            inputs=dict(due.inputs),
            plan_digest=self.plan_digest,
            config=_whole(self.config),
            storage=self.storage,
            needs=self.needs.of_stage(due.stage, self.seeds[seed].run.healed),
            heartbeat=runtime.heartbeat,
            takeover=runtime.takeover,
        )

    # ------------------------------------------------------------ what has ended

    def _patience(self) -> float:
        soon = min(self.later.values(), default=time.monotonic() + LOOK) - time.monotonic()
        return max(0.1, min(LOOK, soon)) if self.later else LOOK

    def _took(self, ended: Ended) -> None:
        seed, due = self.flying.pop(ended.name)
        self.later.pop(ended.name, None)
        if ended.code == DONE:
            return
        if ended.code == RETRY:
            seconds = AGAIN * 2 ** min(DOUBLED, self.refused[ended.name])
            self.later[ended.name] = time.monotonic() + seconds
            self.refused[ended.name] += 1
            return
        failure = self._failure(seed, due) if ended.code == FAILED else None
        if failure is None or failure.kind == NetworkError.__name__:
            self.attempts[ended.name] += 1
            how = failure.message if failure else ended.said or f"its process ended with {ended.code}"
            if self.attempts[ended.name] < ATTEMPTS:
                why = last_words(self._log(seed, due)) if ended.code == FAILED else ""
                self.watcher.note(f"{due.stage}: tried again: {how}{why}")
                return
            failure = failure or self._given_up(seed, due, how)
        self.watcher.note(f"{due.stage}: failed: {failure.message}")
        self.seeds[seed].failed[due.stage] = failure

    def _given_up(self, seed: int, due: Due, how: str) -> StageFailure:
        """The failure of a stage whose process could not say it: kept where those of the others are."""
        log = self._log(seed, due)
        failure = StageFailure(
            stage=due.stage,
            seed=seed,
            kind="ProcessEnded",
            message=f"{how}, {ATTEMPTS} times{last_words(log)}",
            log=last_lines(log),
        )
        with suppress(NetworkError):  # the run itself knows
            self.place.write(failure_name(seed, due.stage), failure.to_json().encode())
        return failure

    def _log(self, seed: int, due: Due) -> Path:
        return self.output.resolve() / SHARED / log_name(seed, due.stage)

    def _failure(self, seed: int, due: Due) -> StageFailure | None:
        """What the stage says of its failure; None where it could not say anything."""
        name = failure_name(seed, due.stage)
        content = None
        with suppress(NetworkError):
            content = self.place.read(name)
        return None if content is None else StageFailure.parse(Path(name), content)


def run_spread(
    config: BenchConfig, task: Task, plan_digest: str, output: Path, watcher: Watcher
) -> Mapping[int, SeedFacts]:
    """Have the seeds of `config` made by its executor, and return what each yielded.

    Raises MissingExtra for an executor without its library, InputError (`storage-address`), and what cannot be written.
    """
    return Spread(config, task, plan_digest, output, watcher).facts()


def is_spread(config: BenchConfig) -> bool:
    """Whether other processes make the stages: on a cluster, or where this machine has several GPUs or workers."""
    runtime = config.runtime
    if runtime.executor != "local" or runtime.storage is not None:
        return True
    return (runtime.workers or len(devices_of(runtime.device))) > 1


def _whole(config: BenchConfig) -> dict[str, Any]:
    """The config with all its defaults, its paths from the root, and what must be the same wherever it is run.

    Threads: as many as here, since Ray's tasks and torchrun's processes would take one. Device: its kind alone, since
    the one GPU that a process is given is its first.
    """
    values = config.model_dump(mode="json")
    values["runtime"]["threads"] = torch.get_num_threads()
    values["runtime"]["device"] = config.runtime.device.partition(":")[0]
    for name, section in (("task", config.task), ("model", config.model)):
        values[name]["folder"] = str(Path(section.folder or "").resolve())
    return values
