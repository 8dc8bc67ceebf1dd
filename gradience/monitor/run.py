"""What a rule of monitor may see of a run, and what it may say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from gradience.monitor.facts import RunFacts
from gradience.monitor.series import Series
from gradience.monitor.setup import RunSetup
from gradience.reports.monitor import Confidence, Evidence
from gradience.rules import NotApplicable
from gradience.telemetry.trainers import Method

DEFAULT_GAP_THRESHOLD = 1.5
MIN_LOGS = 8
"""Points below which a series says nothing."""


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


def need_falling_loss(run: Run) -> RunFacts:
    """Return the facts of a run. Raises NotApplicable in reinforcement learning: there the reward is to rise."""
    if run.setup.method == "reinforcement":
        raise NotApplicable
    return run.facts


def need_method(run: Run, method: Method) -> RunFacts:
    """Return the facts of a run of this method. Raises NotApplicable for any other."""
    if run.setup.method != method:
        raise NotApplicable
    return run.facts


def need_logs(series: Series, least: int = MIN_LOGS) -> Series:
    """Return a series that is long enough to say something. Raises NotApplicable for any other."""
    if series.count < least:
        raise NotApplicable
    return series


def evidence(what: str, value: float | str | None, step: int | None = None) -> tuple[Evidence, ...]:
    """Return one piece of evidence; none where there is no value."""
    return () if value is None else (Evidence(what=what, value=value, step=step),)
