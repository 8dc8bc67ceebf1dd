"""What a rule of check may see, and what it may say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradience.check.base import BaseShape
from gradience.check.dialects.dialect import SUPERVISED, Dialect
from gradience.check.dialects.peft import PEFT
from gradience.check.settings import Settings
from gradience.rules import NotApplicable


@dataclass(frozen=True, slots=True)
class Context:
    """The settings that are checked, and what else the command line says of the training."""

    settings: Settings
    task: str | None = None
    base: BaseShape | None = None
    completion_tokens: int | None = None
    dialect: Dialect = PEFT
    """Of the training configuration; PEFT's where none was given."""

    @property
    def objective(self) -> str | None:
        """What is trained for: as the file has it, and where it names no other method, as `--task rl` has it."""
        written = self.settings.objective
        return "rl" if self.task == "rl" and written in (None, *SUPERVISED) else written


@dataclass(frozen=True, slots=True)
class Problem:
    """What one rule says about one setting."""

    field: str
    seen: str
    advised: str
    message: str
    reason: str


Problems = Iterator[Problem]


def need_supervised(context: Context) -> None:
    """Raise NotApplicable where the evidence, which is on supervised fine-tuning, says nothing."""
    if context.objective not in (None, *SUPERVISED):
        raise NotApplicable
