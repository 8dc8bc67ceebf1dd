"""`gradience bench status --json`: how far a run is, who makes what, and what failed."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from gradience.artifacts.base import Artifact, Float12, Part

StageState = Literal["done", "running", "waiting", "failed"]
RunState = Literal["finished", "going on", "stopped", "unknown"]


class StageWorker(Part):
    """The process that makes a stage, or the run."""

    host: str
    pid: int
    since: datetime
    """When it began, by its clock."""
    seen: datetime
    """Its last sign of life, by the clock of the folder or storage."""
    alive: bool | None
    """Whether the process runs; null where that cannot be told from the machine that looked."""
    done: int | None = None
    """Steps of the training, or examples that are answered; null where they are not known."""
    of: int | None = None


class StageStatus(Part):
    """One stage of a seed."""

    name: str
    """Such as `uniform_median/train`."""
    state: StageState
    seconds: Float12 | None = None
    """What it took, of a finished one."""
    starting_seconds: Float12 | None = None
    """What a process of its own took until it began; null where there was none."""
    worker: StageWorker | None = None
    """Who makes it; of a stage that waits, who had begun it and is gone."""
    message: str = ""
    """Why it failed."""
    log: tuple[str, ...] = ()
    """The last lines of its log, of a failed one."""


class SeedStatus(Part):
    """One seed of the run."""

    seed: int
    result: str | None
    """The status in its bench.json; null where it has no result yet."""
    stages: tuple[StageStatus, ...]


class BenchStatus(Artifact):
    """How far a run of Bench is. Nothing of the run is touched, and no file is compared with its digest."""

    schema_: Literal["gradience.bench_status/1"] = Field(default="gradience.bench_status/1", alias="schema")
    run: str
    """The last part of the folder's path."""
    looked: datetime
    state: RunState
    """`stopped`: begun, not finished, and no process at work; `unknown`: the machine that looked cannot tell."""
    executor: str
    """Where the stages are made."""
    storage: str | None
    """Address of what the machines share; null for the folder of the run."""
    process: StageWorker | None
    """That of `gradience bench run`; null where none is known."""
    seeds: tuple[SeedStatus, ...]
    seconds_left: Float12 | None
    """From what finished stages took, for as many at once as are made now; null where it cannot be known."""
    left_unknown: str = ""
    """Why it is null."""

    @property
    def stages(self) -> tuple[tuple[int, StageStatus], ...]:
        """Every stage, with its seed."""
        return tuple((each.seed, stage) for each in self.seeds for stage in each.stages)
