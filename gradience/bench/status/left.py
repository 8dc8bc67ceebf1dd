"""How long a run still takes, from what its finished stages took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from statistics import mean

from gradience.artifacts.bench_status import StageStatus
from gradience.bench.plan.graph import Kind, StageNode
from gradience.bench.plan.schedule import Work, schedule, span

Seen = tuple[StageNode, StageStatus]
"""A stage of the plan, and what is known of it."""

LONG: tuple[Kind, ...] = ("training", "evaluation", "calibration", "healing")
"""Until one of these has finished nothing can be said; audits and cuts take moments, and count as that before."""


def seconds_left(
    seeds: Mapping[int, Sequence[Seen]], at_once: int, now: datetime
) -> tuple[float | None, str]:
    """Return the seconds until all stages are done, or None and why it cannot be known.

    A stage takes what those of its kind took in the mean, over all seeds, and one that has not begun also the start of
    a process, where finished ones had one each; one that runs, by its steps, where there is no other. Stages that
    failed are not waited for, nor what comes after them.
    """
    took: dict[Kind, list[float]] = {}
    for node, stage in (each for seen in seeds.values() for each in seen):
        if stage.seconds is not None:
            took.setdefault(node.kind, []).append(stage.seconds)
    starts = [stage.starting_seconds for seen in seeds.values() for _, stage in seen]
    starting = mean([each for each in starts if each is not None] or [0.0])
    work, unknown = list[Work](), dict[str, None]()
    for seed, seen in seeds.items():
        never = {node.name for node, stage in seen if stage.state == "failed"}
        for node, stage in seen:
            if never.intersection(node.after):
                never.add(node.name)
            if stage.state == "done" or node.name in never:
                continue
            seconds = _seconds(stage, took.get(node.kind), now)
            if seconds is None and node.kind in LONG:
                unknown[node.kind] = None
            begins = starting if stage.state == "waiting" else 0.0
            after = tuple(f"{seed}/{name}" for name in node.after)
            work.append(Work(f"{seed}/{node.name}", (seconds or 0.0) + begins, after))
    if unknown:
        return None, f"no {' and no '.join(unknown)} has finished"
    running = {
        f"{seed}/{node.name}" for seed, seen in seeds.items() for node, s in seen if s.state == "running"
    }
    return span(schedule(sorted(work, key=lambda each: each.name not in running), max(1, at_once))), ""


def _seconds(stage: StageStatus, took: list[float] | None, now: datetime) -> float | None:
    worker = stage.worker if stage.state == "running" else None
    passed = 0.0 if worker is None else max(0.0, (now - worker.since).total_seconds())
    if took:
        return max(0.0, mean(took) - passed)
    if worker is not None and worker.done and worker.of:
        return passed / worker.done * (worker.of - worker.done)
    return None
