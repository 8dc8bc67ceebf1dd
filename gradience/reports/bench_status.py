"""`gradience bench status --json`: the progress of a run, its current stage, and its failures."""

from collections import Counter
from datetime import datetime
from typing import Literal

from gradience.files.artifact import Float12, Part
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import plural, rough_duration
from gradience.reports.base.report import Readable

StageState = Literal["done", "running", "waiting", "failed"]
RunState = Literal["finished", "going on", "stopped"]


class StageStatus(Part):
    """One stage of a seed."""

    name: str
    """Name of the stage, such as `uniform_median/train`."""
    state: StageState
    seconds: Float12 | None = None
    """Duration of a finished stage."""
    since: datetime | None = None
    """Time when a running stage began, or was submitted to Ray, which may still queue it."""
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

    schema_: Literal["gradience.bench_status/2"] = "gradience.bench_status/2"
    run: str
    """Name of the run's folder."""
    looked: datetime
    """Time at which the status was read."""
    state: RunState
    """`stopped`: started but not finished, and no process holds the lock of the folder."""
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

    def blocks(self) -> doc.Document:
        """Return the state and progress of the run, the stages that are not done, and the failures."""
        heading = doc.Heading((doc.Span(self.run, "name"), f": {STATES[self.state]}"), level=1)
        blocks: list[doc.Block] = [heading, doc.Paragraph(f"{self.progress()}."), _stages(self)]
        blocks.append(doc.Heading("Failed"))
        for seed, stage in self.stages:
            if stage.state == "failed":
                text = (f"seed {seed} ", doc.Span(stage.name, "name"), f": {stage.message}")
                blocks += [doc.Notes([doc.Note("error", text)]), doc.Code(stage.log)]
        return blocks


ROLES: dict[StageState, doc.Style] = {"done": "good", "running": "info", "waiting": "dim", "failed": "bad"}
STATES: dict[RunState, str] = {
    "finished": "finished",
    "going on": "running",
    "stopped": "stopped; the same command with the same --output resumes it",
}


def _stages(status: BenchStatus) -> doc.Table:
    """Return one row per stage that is not done on every seed, and the results. One column per seed."""
    stages = {(seed, stage.name): stage for seed, stage in status.stages}
    rows: list[list[doc.Inline]] = []
    for name in dict.fromkeys(stage.name for _, stage in status.stages):
        of_seeds = [stages.get((seed.seed, name)) for seed in status.seeds]
        if any(stage is None or stage.state != "done" for stage in of_seeds):
            rows.append([doc.Span(name, "name"), *(_cell(status, stage) for stage in of_seeds)])
    if any(seed.result for seed in status.seeds):
        rows.append(["result", *(seed.result or "" for seed in status.seeds)])
    return doc.Table(
        [doc.Column("unfinished stages"), *(doc.Column(f"seed {seed.seed}") for seed in status.seeds)], rows
    )


def _cell(status: BenchStatus, stage: StageStatus | None) -> doc.Span:
    """Return the state of a stage, and the time since a running stage began."""
    if stage is None:
        return doc.Span("not needed", "dim")
    if stage.since is None:
        return doc.Span(stage.state, ROLES[stage.state])
    seconds = max(0.0, (status.looked - stage.since).total_seconds())
    return doc.Span(f"{stage.state}, {rough_duration(seconds)}", ROLES[stage.state])
