"""What a rule is, and what it may say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradience.artifacts.finding import Severity
from gradience.artifacts.monitor import Confidence, Evidence
from gradience.monitor.facts import RunFacts
from gradience.monitor.setup import RunSetup
from gradience.telemetry.trainers import Method

DEFAULT_GAP_THRESHOLD = 1.5


@dataclass(frozen=True, slots=True)
class Options:
    """What a user may set."""

    gap_threshold: float = DEFAULT_GAP_THRESHOLD
    """Ratio of evaluation to training perplexity from which a gap is an alert: exp(eval loss − train loss)."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says."""

    message: str
    evidence: tuple[Evidence, ...]
    confidence: Confidence
    action: str = ""
    """What to do; empty where nothing follows."""
    reason: str = ""


Check = Callable[[RunFacts, RunSetup, Options], Finding | None]


ALL: frozenset[Method] = frozenset({"supervised", "preference", "reinforcement"})
LOSS_FALLS: frozenset[Method] = frozenset({"supervised", "preference"})
"""Methods whose loss is something to bring down. In reinforcement learning it is not: the reward is."""
CROSS_ENTROPY: frozenset[Method] = frozenset({"supervised"})
REWARDS: frozenset[Method] = frozenset({"reinforcement"})


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, its name and weight, where it comes from, and the methods of training that it knows."""

    code: str
    severity: Severity
    source: str
    check: Check
    methods: frozenset[Method] = ALL


def evidence(what: str, value: float | str | None, step: int | None = None) -> tuple[Evidence, ...]:
    """One piece of evidence; none where there is no value."""
    return () if value is None else (Evidence(what=what, value=value, step=step),)
