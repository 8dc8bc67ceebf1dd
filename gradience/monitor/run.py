"""What a rule of monitor may see of a run, and what it may say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gradience.artifacts.monitor import Confidence, Evidence
from gradience.monitor.facts import RunFacts
from gradience.monitor.setup import RunSetup
from gradience.rules import NotApplicable
from gradience.telemetry.trainers import Method

DEFAULT_GAP_THRESHOLD = 1.5


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may set."""

    gap_threshold: float = DEFAULT_GAP_THRESHOLD
    """Ratio of evaluation to training perplexity from which a gap is an alert: exp(eval loss − train loss)."""


class Run(NamedTuple):
    """One run: what its records say, how it was configured, and what the user set."""

    facts: RunFacts
    setup: RunSetup
    options: Options


@dataclass(frozen=True, slots=True)
class Observation:
    """What one rule says."""

    message: str
    evidence: tuple[Evidence, ...]
    confidence: Confidence
    action: str = ""
    """What to do; empty where nothing follows."""
    reason: str = ""


Observations = Iterator[Observation]


def need_falling_loss(run: Run) -> None:
    """Raise NotApplicable in reinforcement learning: there the loss is nothing to bring down, the reward is."""
    if run.setup.method == "reinforcement":
        raise NotApplicable


def need_method(run: Run, method: Method) -> None:
    """Raise NotApplicable for any other method."""
    if run.setup.method != method:
        raise NotApplicable


def evidence(what: str, value: float | str | None, step: int | None = None) -> tuple[Evidence, ...]:
    """Return one piece of evidence; none where there is no value."""
    return () if value is None else (Evidence(what=what, value=value, step=step),)
