"""A rule: its check, severity and source. `check` and `monitor` consist of rules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from gradience.reports.base.report import Severity

Subject = TypeVar("Subject")
Statement = TypeVar("Statement")
Value = TypeVar("Value")


class NotApplicable(Exception):
    """The rule does not apply: the subject lacks its inputs, or is of an unknown kind."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[Subject, Statement]):
    """A rule by its code. `look` yields a statement for each thing that is wrong, or raises NotApplicable."""

    code: str
    severity: Severity
    source: str
    look: Callable[[Subject], Iterator[Statement]]

    def statements(self, subject: Subject) -> tuple[Statement, ...]:
        """Return the rule's results for `subject`; empty if the rule is not applicable."""
        try:
            return tuple(self.look(subject))
        except NotApplicable:
            return ()


def rule(
    code: str, severity: Severity, source: str
) -> Callable[[Callable[[Subject], Iterator[Statement]]], Rule[Subject, Statement]]:
    """Make a rule of the generator function below it.

    >>> @rule("odd", "info", "arithmetic")
    ... def odd(number: int) -> Iterator[str]:
    ...     if number % 2:
    ...         yield f"{number} is odd"
    >>> odd.statements(3)
    ('3 is odd',)
    """
    return lambda look: Rule(code, severity, source, look)


def need(value: Value | None) -> Value:
    """Return the value. Raises NotApplicable if there is none."""
    if value is None:
        raise NotApplicable
    return value
