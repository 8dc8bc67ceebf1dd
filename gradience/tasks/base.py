"""What a task is: its examples, and how an output becomes right or wrong. Two kinds; every task is one of them.

A task file has one function `load(...) -> Task`, whose keyword parameters are the task's options in a config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from gradience.artifacts.bench_plan import TaskCode
from gradience.tasks.examples import Examples, Labelled, Question

Metric = Literal["accuracy", "f1", "matthews"]
Filter = Callable[[str], str | None]
"""From a model's output to the answer in it, or None when there is none."""


@dataclass(frozen=True, kw_only=True)
class ClassificationTask:
    """Texts to label. The verdicts of Bench rest on counts of right labels, whatever `metric` is shown."""

    name: str
    examples: Examples[Labelled]
    label_names: tuple[str, ...]
    metric: Metric = "accuracy"
    """What the field reports for this task; shown beside accuracy."""
    scoring_version: int = 1
    """Raised when the same outputs come to count otherwise: finished evaluations are then made again."""
    code: TaskCode | None = None
    """The user's own code that makes the task; `load` fills it in."""
    source: Mapping[str, str] = field(default_factory=dict)
    """Where the data come from: names, versions, hashes."""

    @property
    def scoring(self) -> str:
        """What decides which answers are right, in short."""
        return scoring_of(self)


@dataclass(frozen=True, kw_only=True)
class GenerationTask:
    """Questions to answer in free text; right when the extracted answer is the gold answer."""

    name: str
    examples: Examples[Question]
    filters: Mapping[str, Filter]
    """Ways of finding the answer in an output. The first decides; the others are shown beside it."""
    same: Callable[[str, str], bool]
    """(extracted, gold) -> whether they are the same answer."""
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    """An output ends before the first of these."""
    scoring_version: int = 1
    """Raised when the same outputs come to count otherwise: finished evaluations are then made again."""
    code: TaskCode | None = None
    """The user's own code that makes the task; `load` fills it in."""
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def scoring(self) -> str:
        """What decides which answers are right, in short."""
        return scoring_of(self)


Task = ClassificationTask | GenerationTask


def scoring_of(task: Task) -> str:
    """The name and version of the task's scoring, and of a user's own code its digest, or its package without one."""
    version = f"{task.name} {task.scoring_version}"
    if task.code is None:
        return version
    return f"{version}, {task.code.sha256 or task.code.package or task.code.name}"
