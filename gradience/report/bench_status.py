"""How far a run of Bench is: stages by seed, what is running, and failures."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from gradience.report.forecast import rough_duration
from gradience.reports.base import terminal
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
from gradience.reports.base.numbers import count, plural
from gradience.reports.bench_status import BenchStatus, RunState, StageState, StageStatus

ROLES: dict[StageState, Role] = {"done": "good", "running": "info", "waiting": "dim", "failed": "bad"}
SAYS: dict[RunState, str] = {
    "finished": "finished",
    "going on": "running",
    "stopped": "stopped; the same command with the same --output resumes it",
}


def status_text(status: BenchStatus, *, width: int | None = None, color: bool = False) -> str:
    """Return the screen of `gradience bench status`."""
    return terminal.render(status_blocks(status), width=width, color=color)


def status_blocks(status: BenchStatus) -> Document:
    """The run, its running stages, all stages by seed, and what failed."""
    facts: list[tuple[str, Inline]] = [("run", SAYS[status.state])]
    if status.process is not None:
        who = (f"pid {status.process.pid} on ", Span(status.process.host, "name"))
        facts.append(("started by", (*who, f", {_ago(status.process.since, status)}")))
    facts.append(("executor", status.executor))
    blocks: list[Block] = [
        Heading(Span(status.run, "name"), level=1, aside=counts_text(status)),
        Facts(facts),
    ]
    running = [(seed, stage) for seed, stage in status.stages if stage.work is not None]
    if running:
        blocks += [
            Heading("Running or queued" if status.executor == "ray" else "Running"),
            _running(status, running),
        ]
    return [*blocks, Heading("Stages"), _stages(status), *_failures(status)]


def counts_text(status: BenchStatus) -> str:
    """Return `5 of 14 stages done, 2 running, 1 failed`."""
    states = Counter(stage.state for _, stage in status.stages)
    others = [f"{states[state]} {state}" for state in ("running", "failed") if states[state]]
    return ", ".join([f"{states['done']} of {plural(states.total(), 'stage')} done", *others])


def _ago(moment: datetime, status: BenchStatus) -> str:
    return f"{rough_duration(max(0.0, (status.looked - moment).total_seconds()))} ago"


def _running(status: BenchStatus, stages: list[tuple[int, StageStatus]]) -> Table:
    rows: list[list[Inline]] = []
    for seed, stage in stages:
        if (work := stage.work) is not None:
            done = f"{count(work.done)} of {count(work.of)}" if work.done is not None and work.of else ""
            rows.append([str(seed), Span(stage.name, "name"), _ago(work.since, status), done])
    columns = [Column("seed", ">"), Column("stage"), Column("began", ">"), Column("done", ">")]
    return Table(columns, rows)


def _stages(status: BenchStatus) -> Table:
    """A row for each stage, a column for each seed."""
    names = dict.fromkeys(stage.name for _, stage in status.stages)
    states = {(seed, stage.name): stage for seed, stage in status.stages}
    rows: list[list[Inline]] = [
        [Span(name, "name"), *(_cell(states.get((each.seed, name))) for each in status.seeds)]
        for name in names
    ]
    if any(each.result for each in status.seeds):
        rows.append(["result", *(each.result or "" for each in status.seeds)])
    return Table([Column("stage"), *(Column(f"seed {each.seed}") for each in status.seeds)], rows)


def _cell(stage: StageStatus | None) -> Inline:
    if stage is None:
        return Span("not made", "dim")
    took = f", {rough_duration(stage.seconds)}" if stage.seconds is not None else ""
    return Span(f"{stage.state}{took}", ROLES[stage.state])


def _failures(status: BenchStatus) -> list[Block]:
    failed = [(seed, stage) for seed, stage in status.stages if stage.state == "failed"]
    blocks: list[Block] = [Heading("Failed")] if failed else []
    for seed, stage in failed:
        title = (f"seed {seed} ", Span(stage.name, "name"), f": {stage.message}")
        blocks.append(Notes([Note("error", title)]))
        if stage.log:
            blocks.append(Code(stage.log))
    return blocks
