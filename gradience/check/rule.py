"""What a rule of check is, what it may see, and what it may say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gradience.artifacts.check import Severity
from gradience.check.base import BaseShape
from gradience.check.settings import Settings


@dataclass(frozen=True, slots=True)
class Context:
    """Everything that was given."""

    settings: Settings
    task: str | None = None
    base: BaseShape | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What one rule says about one setting."""

    field: str
    seen: str
    advised: str
    message: str
    reason: str


class NotApplicable(Exception):
    """The rule lacks what it needs: nothing is said, and that is said."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, its name and weight, and where it comes from. `check` raises NotApplicable, or yields problems."""

    code: str
    severity: Severity
    source: str
    check: Callable[[Context], list[Problem]]


def need(*values: object) -> None:
    """Raise NotApplicable unless all values were given."""
    if any(value is None for value in values):
        raise NotApplicable
