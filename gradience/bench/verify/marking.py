"""By which rules the answers of a run are marked again, where they can be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gradience import tasks
from gradience.adapters import strict_yaml
from gradience.bench.verdict.folders import CONFIG
from gradience.errors import GradienceError
from gradience.reading import MAX_SETTINGS_BYTES, read_file
from gradience.reports.bench import Bench
from gradience.reports.bench_plan import BenchPlan
from gradience.tasks import user_code
from gradience.tasks.base import AnswerScoring, LabelScoring, Scoring


class Marking(NamedTuple):
    """The rules of a run's task."""

    rules: Scoring
    why_not: str = ""
    """Why answers are taken as they are marked; empty where they are marked again."""
    unknown: tuple[str, ...] = ()
    """Fields of a result that only the task's code can compute."""


def marking_of(run: Path, plan: BenchPlan, recorded: Bench) -> Marking:
    """Return how answers are marked: by the task that comes with Gradience, or by a user's where that may run."""
    profile, options, folder = _task(run, recorded)
    try:
        code = tasks.code_of(profile, folder)
        if code is None and plan.task_code is None:
            return Marking(tasks.scoring_of(profile, options, folder=folder))
        if not user_code.is_allowed():
            return _without(
                recorded,
                "the task is somebody's own code: not scored again (--allow-code, where you trust it)",
            )
        if code is None or plan.task_code is None or code.sha256 != plan.task_code.sha256:
            return _without(recorded, f"{profile}: not the code that the plan names: not scored again")
        return Marking(tasks.scoring_of(profile, options, folder=folder))
    except GradienceError as error:
        return _without(recorded, f"the task's rules cannot be had: not scored again: {error}")


def _without(recorded: Bench, why: str) -> Marking:
    """What can be said without the task: a label is right where it is the example's, whoever made the task."""
    unknown = ("probe.metrics", *(f"variants.{result.name}.measures.metrics" for result in recorded.variants))
    if recorded.model_type == "seqcls":
        return Marking(LabelScoring(), unknown=unknown)
    return Marking(AnswerScoring(filters={}, same=lambda _, __: False), why_not=why, unknown=unknown)


def _task(run: Path, recorded: Bench) -> tuple[str, dict[str, Any], Path | None]:
    """Profile, options, and where their paths start; whole where config.yaml is there."""
    values: Any = recorded.config
    if (run / CONFIG).is_file():
        values = strict_yaml.loads(read_file(run / CONFIG, MAX_SETTINGS_BYTES), run / CONFIG)
    task = values["task"]
    folder = run / task["folder"] if task.get("folder") else None
    return str(task["profile"]), dict(task.get("options") or {}), folder
