"""How far a run of Bench is: stages by seed, who makes what, time left, failures; and what has changed since."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from gradience.artifacts.bench_status import BenchStatus, RunState, StageState, StageStatus, StageWorker
from gradience.report import terminal
from gradience.report.blocks import (
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
from gradience.report.forecast import rough_duration
from gradience.report.numbers import count, plural
from gradience.words import printable

STATES: tuple[StageState, ...] = ("done", "running", "waiting", "failed")
ROLES: dict[StageState, Role] = {"done": "good", "running": "info", "waiting": "dim", "failed": "bad"}
SAYS: dict[RunState, str] = {
    "finished": "finished",
    "going on": "running",
    "stopped": "no process at work; the same command with the same --output resumes it",
    "unknown": "not known: it was started on another machine or in another container, which cannot be seen from here",
}


def status_text(status: BenchStatus, *, width: int | None = None, color: bool = False) -> str:
    """What `gradience bench status` prints."""
    return terminal.render(status_blocks(status), width=width, color=color)


def status_blocks(status: BenchStatus) -> Document:
    """The run, its running stages, all stages by seed, and what failed."""
    blocks: list[Block] = [Heading(Span(status.run, "name"), level=1, aside=counts_text(status))]
    facts: list[tuple[str, Inline]] = [("run", SAYS[status.state])]
    if status.process is not None:
        facts.append(("started by", (*_who(status.process), f", {_ago(status.process.since, status)}")))
    facts.append(("executor", status.executor))
    if status.storage is not None:
        facts.append(("storage", Span(status.storage, "name")))
    if status.state != "finished":
        facts.append(("time left", left_text(status)))
    blocks.append(Facts(facts))
    running = [(seed, stage) for seed, stage in status.stages if stage.state == "running"]
    gone = [
        (seed, stage)
        for seed, stage in status.stages
        if stage.state == "waiting" and stage.worker is not None
    ]
    if running:
        blocks += [Heading("Running"), _workers(status, running)]
    if gone:
        blocks += [Heading("Begun by a process that is gone, to be made again"), _workers(status, gone)]
    return [*blocks, Heading("Stages"), _stages(status), *_failures(status)]


def counts_text(status: BenchStatus) -> str:
    """Return `5 of 14 stages done, 2 running, 1 failed`."""
    states = Counter(stage.state for _, stage in status.stages)
    others = [f"{states[state]} {state}" for state in ("running", "failed") if states[state]]
    return ", ".join([f"{states['done']} of {plural(states.total(), 'stage')} done", *others])


def left_text(status: BenchStatus) -> str:
    """Return `about 12 min`, or why that is not known."""
    if status.seconds_left is None:
        return f"not known yet: {status.left_unknown}"
    return (
        f"about {rough_duration(status.seconds_left)} once it runs"
        if status.state == "stopped"
        else (f"about {rough_duration(status.seconds_left)}")
    )


def changes(before: BenchStatus | None, status: BenchStatus) -> list[str]:
    """Return a line for each stage whose state, or whose process, is another than before; at first, where it stands."""
    clock = f"{status.looked.astimezone():%H:%M:%S}"
    if before is None:
        left = "" if status.state == "finished" else f"; time left: {left_text(status)}"
        lines = [f"{counts_text(status)}; {SAYS[status.state]}{left}"]
        known: dict[tuple[int, str], StageStatus] = {
            (seed, stage.name): stage for seed, stage in status.stages if stage.state in ("done", "waiting")
        }
    else:
        known = {(seed, stage.name): stage for seed, stage in before.stages}
        lines = [] if before.state == status.state else [f"{SAYS[status.state]}; {counts_text(status)}"]
    moved = [
        f"seed {seed} {stage.name}: {_moved(stage)}"
        for seed, stage in status.stages
        if _identity(known.get((seed, stage.name))) != _identity(stage)
    ]
    return [f"{clock} {printable(line)}" for line in [*lines, *moved]]


def _identity(stage: StageStatus | None) -> tuple[str, str, int]:
    if stage is None:  # one that the audit has brought
        return "waiting", "", 0
    worker = stage.worker if stage.state == "running" else None
    return stage.state, "" if worker is None else worker.host, 0 if worker is None else worker.pid


def _moved(stage: StageStatus) -> str:
    if stage.state == "done":
        return f"done in {rough_duration(stage.seconds or 0)}"
    if stage.state == "running" and stage.worker is not None:
        return f"running on {stage.worker.host}, pid {stage.worker.pid}"
    if stage.state == "failed":
        return f"failed: {stage.message}"
    return "waiting again" + (
        f": pid {stage.worker.pid} on {stage.worker.host} is gone" if stage.worker else ""
    )


def _who(worker: StageWorker) -> tuple[str | Span, ...]:
    return (f"pid {worker.pid} on ", Span(worker.host, "name"))


def _ago(moment: datetime, status: BenchStatus) -> str:
    return f"{rough_duration(max(0.0, (status.looked - moment).total_seconds()))} ago"


def _workers(status: BenchStatus, stages: list[tuple[int, StageStatus]]) -> Table:
    counted = any(stage.worker is not None and stage.worker.done is not None for _, stage in stages)
    columns = [
        Column("seed", ">"),
        Column("stage"),
        Column("host"),
        Column("pid", ">"),
        Column("began", ">"),
        Column("last sign of life", ">", drop=2),
        *([Column("done", ">", drop=1)] if counted else []),
    ]
    rows: list[list[Inline]] = []
    for seed, stage in stages:
        worker = stage.worker
        if worker is None:
            continue
        done = f"{count(worker.done)} of {count(worker.of)}" if worker.done is not None and worker.of else ""
        row: list[Inline] = [
            str(seed),
            Span(stage.name, "name"),
            Span(worker.host, "name"),
            str(worker.pid),
            _ago(worker.since, status),
            _ago(worker.seen, status),
            done,
        ]
        rows.append(row[: len(columns)])
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
