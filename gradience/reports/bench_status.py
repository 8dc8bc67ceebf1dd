"""`gradience bench status --json`: the progress of a run, its current stage, and its failures."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part

StageState = Literal["done", "running", "waiting", "failed"]
RunState = Literal["finished", "going on", "stopped"]


class RunProcess(Part):
    """The process of `gradience bench run`."""

    host: str
    pid: int
    since: datetime
    """When it began, by its clock."""


class StageWork(Part):
    """How far a running stage is."""

    since: datetime
    """When it began, or was given to Ray, which may still queue it."""
    done: int | None = None
    """Steps of the training, or examples that are answered; null if another process than that of the run makes it."""
    of: int | None = None


class StageStatus(Part):
    """One stage of a seed."""

    name: str
    """Such as `uniform_median/train`."""
    state: StageState
    seconds: Float12 | None = None
    """Duration of a finished stage."""
    work: StageWork | None = None
    """Only of a running stage."""
    message: str = ""
    """Error of a failed stage."""
    log: tuple[str, ...] = ()
    """Last lines of its traceback."""


class SeedStatus(Part):
    """One seed of the run."""

    seed: int
    result: str | None
    """The status in its bench.json; null where it has no result yet."""
    stages: tuple[StageStatus, ...]


class BenchStatus(Artifact):
    """How far a run of Bench is. Nothing of the run is touched, and no file is compared with its digest."""

    schema_: Literal["gradience.bench_status/2"] = Field(default="gradience.bench_status/2", alias="schema")
    run: str
    """The last part of the folder's path."""
    looked: datetime
    state: RunState
    """`stopped`: begun, not finished, and no process holds the lock of the folder."""
    executor: str
    """Where the stages are made."""
    process: RunProcess | None
    """Null unless the run goes on."""
    seeds: tuple[SeedStatus, ...]

    @property
    def stages(self) -> tuple[tuple[int, StageStatus], ...]:
        """Every stage, with its seed."""
        return tuple((each.seed, stage) for each in self.seeds for stage in each.stages)
