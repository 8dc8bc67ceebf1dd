"""`gradience bench status --json`: the progress of a run, its current stage, and its failures."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Literal

from pydantic import Field

from gradience.files.artifact import Float12, Part
from gradience.reports.base.blocks import (
    Block,
    Code,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Role,
    Span,
    Table,
)
from gradience.reports.base.numbers import count, plural, rough_duration
from gradience.reports.base.report import Readable

StageState = Literal["done", "running", "waiting", "failed"]
RunState = Literal["finished", "going on", "stopped"]


class RunProcess(Part):
    """The process of `gradience bench run`."""

    host: str
    pid: int
    since: datetime
    """Start time by the process's own clock."""


class StageWork(Part):
    """Progress of a running stage."""

    since: datetime
    """Time when the stage began, or was submitted to Ray, which may still queue it."""
    done: int | None = None
    """Training steps done, or examples answered; null if the stage runs in a different process from the run."""
    of: int | None = None


class StageStatus(Part):
    """One stage of a seed."""

    name: str
    """Name of the stage, such as `uniform_median/train`."""
    state: StageState
    seconds: Float12 | None = None
    """Duration of a finished stage."""
    work: StageWork | None = None
    """Null unless the stage is running."""
    message: str = ""
    """Error of a failed stage."""
    log: tuple[str, ...] = ()
    """Last lines of its traceback."""


class SeedStatus(Part):
    """One seed of the run."""

    seed: int
    result: str | None
    """Status in the seed's bench.json; null if there is no result yet."""
    stages: tuple[StageStatus, ...]


class BenchStatus(Readable):
    """Progress of a Bench run. The run is not modified, and no file is compared with its digest."""

    schema_: Literal["gradience.bench_status/2"] = Field(default="gradience.bench_status/2", alias="schema")
    run: str
    """The last part of the folder's path."""
    looked: datetime
    state: RunState
    """`stopped`: begun, not finished, and no process holds the lock of the folder."""
    executor: str
    """Executor of the stages."""
    process: RunProcess | None
    """Null unless the run is in progress."""
    seeds: tuple[SeedStatus, ...]

    @property
    def stages(self) -> tuple[tuple[int, StageStatus], ...]:
        """Return every stage, with its seed."""
        return tuple((seed.seed, stage) for seed in self.seeds for stage in seed.stages)

    def progress(self) -> str:
        """Return `5 of 14 stages done, 2 running, 1 failed`."""
        if not self.stages:
            return "results without the files of their stages"
        states = Counter(stage.state for _, stage in self.stages)
        others = [f"{states[state]} {state}" for state in ("running", "failed") if states[state]]
        return ", ".join([f"{states['done']} of {plural(states.total(), 'stage')} done", *others])

    def blocks(self) -> Document:
        """Return the run, its running stages, all stages by seed, and the failures."""
        facts: list[tuple[str, Inline]] = [("run", STATES[self.state])]
        if self.process is not None:
            host = (f"pid {self.process.pid} on ", Span(self.process.host, "name"))
            facts.append(("started by", (*host, f", {_ago(self.process.since, self)}")))
        facts.append(("executor", self.executor))
        heading = Heading(Span(self.run, "name"), level=1, aside=self.progress())
        blocks: list[Block] = [heading, Facts(facts)]
        running: list[list[Inline]] = []
        for seed, stage in self.stages:
            if (work := stage.work) is not None:
                done = f"{count(work.done)} of {count(work.of)}" if work.done is not None and work.of else ""
                running.append([str(seed), Span(stage.name, "name"), _ago(work.since, self), done])
        if running:
            title = "Running or queued" if self.executor == "ray" else "Running"
            columns = [Column("seed", ">"), Column("stage"), Column("began", ">"), Column("done", ">")]
            blocks += [Heading(title), Table(columns, running)]
        blocks += [Heading("Stages"), _stages(self)]
        failed = [(seed, stage) for seed, stage in self.stages if stage.state == "failed"]
        blocks += [Heading("Failed")] if failed else []
        for seed, stage in failed:
            text = (f"seed {seed} ", Span(stage.name, "name"), f": {stage.message}")
            blocks += [Notes([Note("error", text)]), *([Code(stage.log)] if stage.log else [])]
        return blocks


ROLES: dict[StageState, Role] = {"done": "good", "running": "info", "waiting": "dim", "failed": "bad"}
STATES: dict[RunState, str] = {
    "finished": "finished",
    "going on": "running",
    "stopped": "stopped; the same command with the same --output resumes it",
}


def _ago(moment: datetime, status: BenchStatus) -> str:
    return f"{rough_duration(max(0.0, (status.looked - moment).total_seconds()))} ago"


def _stages(status: BenchStatus) -> Table:
    """Return one row per stage and one column per seed."""
    stages = {(seed, stage.name): stage for seed, stage in status.stages}
    rows: list[list[Inline]] = []
    for name in dict.fromkeys(stage.name for _, stage in status.stages):
        row: list[Inline] = [Span(name, "name")]
        for seed in status.seeds:
            stage = stages.get((seed.seed, name))
            if stage is None:
                row.append(Span("not made", "dim"))
                continue
            time = f", {rough_duration(stage.seconds)}" if stage.seconds is not None else ""
            row.append(Span(f"{stage.state}{time}", ROLES[stage.state]))
        rows.append(row)
    if any(seed.result for seed in status.seeds):
        rows.append(["result", *(seed.result or "" for seed in status.seeds)])
    return Table([Column("stage"), *(Column(f"seed {seed.seed}") for seed in status.seeds)], rows)
