"""One vocabulary for what the configuration files of all tools say: settings, how their values are read, and tasks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from gradience.arguments import is_number
from gradience.errors import UsageError
from gradience.files.strict_json import LARGEST, SMALLEST
from gradience.ranks import scale_of
from gradience.reports.check import SettingsRead


class CheckedSettings(SettingsRead):
    """Settings that a report shows, and those that only the rules need. None: not in the files."""

    dropout: float | None = None
    target_parameters: bool | None = None
    bias: str | None = None
    modules_to_save: tuple[str, ...] | None = None
    rank_pattern: Mapping[str, Any] | None = None
    alpha_pattern: Mapping[str, Any] | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    accumulation: int | None = None
    unreadable: tuple[tuple[str, str, str], ...] = ()
    """(setting, value as written, what it should be) for values of the wrong kind."""
    where: Mapping[str, str] = {}
    """File and key of each setting that was read."""

    def filled_from(self, other: CheckedSettings) -> CheckedSettings:
        """Return these settings, with those of `other` for the ones that are None."""
        known = {name: value for name, value in self if value is not None}
        both = {
            "unreadable": self.unreadable + other.unreadable,
            "where": {**other.where, **self.where},
        }
        return other.model_copy(update={**known, **both})

    def completed(self) -> CheckedSettings:
        """Return these settings with what follows from them: the scale, and the rows of an optimizer step."""
        scale = rows = None
        if self.r and self.r >= 1 and self.alpha is not None:
            scale = scale_of(self.alpha, self.r, use_rslora=bool(self.use_rslora))
        if self.batch_size:
            rows = self.batch_size * (self.accumulation or 1)
        return self.model_copy(update={"scale": scale, "effective_batch_size": rows})


# ---------------------------------------------------------------- values


class Unreadable(ValueError):
    """The value is of the wrong kind; the message says what it should be."""


def text(value: Any) -> str:
    if isinstance(value, (str, bool, int, float)):
        return str(value)
    raise Unreadable("a word")


def integer(value: Any) -> int:
    """Read 16 and 16.0, not true, not "16"."""
    if not is_number(value) or not abs(value) <= LARGEST or value % 1:
        raise Unreadable("a whole number")
    return int(value)


def number(value: Any) -> float:
    """Read a number; the string "2e-4", which YAML 1.1 makes of 2e-4, is accepted."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise Unreadable("a number") from None
    if not is_number(value):
        raise Unreadable("a number")
    if value and not SMALLEST <= abs(value) <= LARGEST:
        raise Unreadable(f"0, or a number between {SMALLEST:g} and {LARGEST:g}")
    return float(value)


def flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    raise Unreadable("true or false")


def given(value: Any) -> bool:
    """Return True if anything is set."""
    return bool(value)


def names(value: Any) -> tuple[str, ...]:
    """Read a list of names, or names between commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise Unreadable("a list of names")


def targets(value: Any) -> tuple[str, ...] | str:
    """Read a list of names, or one string: a regular expression or `all-linear`."""
    return value if isinstance(value, str) else names(value)


def pattern(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    raise Unreadable("a mapping of module patterns to numbers")


def init(value: Any) -> str:
    """Read `init_lora_weights`: a switch or a name."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return text(value)


def strategy(value: Any) -> str:
    """Read `no`, `steps` or `epoch`; YAML 1.1 reads `no` as false."""
    return "no" if value is False else text(value).lower()


Reader = Callable[[Any], Any]
READERS: Mapping[str, Reader] = {
    name: reader
    for reader, names in (
        (text, "base_model peft_type task_type bias optimizer schedule"),
        (integer, "r batch_size accumulation max_steps"),
        (number, "alpha dropout learning_rate weight_decay epochs"),
        (flag, "use_rslora use_dora"),
        (given, "target_parameters"),
        (names, "modules_to_save"),
        (targets, "target_modules"),
        (pattern, "rank_pattern alpha_pattern"),
        (init, "init"),
        (strategy, "evaluation"),
    )
    for name in names.split()
}
"""Setting -> reader of its values, unless a dialect has its own."""


# ---------------------------------------------------------------- tasks

TASKS = ("classification", "generation", "reasoning", "rl")

OTHER_NAMES = {
    "classification": (
        "seq_cls", "token_cls", "sequence_classification", "token_classification", "text_classification",
        "sentiment", "sentiment_analysis", "easy_classification", "hard_classification",
        "glue", "sst", "sst2", "sst_2", "mnli", "qnli", "qqp", "rte", "wnli", "cola", "mrpc", "stsb", "imdb", "ag_news",
    ),
    "generation": (
        "causal_lm", "seq_2_seq_lm", "text_generation", "text2text_generation", "summarization", "translation",
    ),
    "reasoning": ("gsm8k", "svamp", "math", "aqua", "asdiv", "multiarith", "hard_reasoning"),
    "rl": ("reinforcement_learning", "grpo", "rloo", "ppo"),
}  # fmt: skip
"""Spelled with underscores and in small letters; `task_of` takes every other spelling."""

TASK_OF = {name: task for task, names in OTHER_NAMES.items() for name in (task, *names)}


def task_of(name: str) -> str:
    """Return the task that a name means. Raises UsageError (unknown-task).

    >>> task_of("openai/gsm8k"), task_of("SEQ_CLS"), task_of("text-generation")
    ('reasoning', 'classification', 'generation')
    """
    last = name.rstrip("/").rsplit("/", maxsplit=1)[-1]
    task = TASK_OF.get(re.sub(r"[\s-]+", "_", last.strip().lower()))
    if task is None:
        raise UsageError(
            f"unknown kind of task: {name!r}",
            code="unknown-task",
            hint=f"use one of {', '.join(TASKS)}, or a name such as sst2, gsm8k, seq_cls or text_generation",
        )
    return task
