"""Settings of a check (flags and Python keywords of the same names), and task names."""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Annotated

from pydantic import BeforeValidator, Field

from gradience.errors import UsageError
from gradience.files.strict_json import LARGEST
from gradience.settings import Flag, Integer, Number, StrPath, settings_model, several

TASKS = ("classification", "generation", "reasoning", "rl")
OTHER_NAMES = {
    "classification": ("seq_cls", "token_cls", "text_classification", "sentiment", "glue", "sst2", "mnli", "imdb"),
    "generation": ("causal_lm", "seq_2_seq_lm", "text_generation", "summarization", "translation"),
    "reasoning": ("gsm8k", "math", "svamp"),
    "rl": ("reinforcement_learning", "grpo", "rloo", "ppo"),
}  # fmt: skip
"""Task -> synonyms, in lower case with underscores; `task_of` normalizes other spellings."""


@settings_model()
class CheckSettings:
    """Configurations."""

    configs: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("CONFIG")] = ()
    """Adapter folder, training folder or configuration file (adapter_config.json, arguments of the Trainer or of TRL as
    JSON or YAML); several are read as one configuration."""
    _: KW_ONLY
    peft_dir: Annotated[StrPath | None, Flag("DIR")] = None
    """Folder with an adapter_config.json."""
    training_dir: Annotated[StrPath | None, Flag("DIR")] = None
    """Folder with a training configuration."""
    task: Annotated[str | None, Flag("NAME", short="--dataset", values=lambda: TASKS)] = None
    """Kind of task: classification, generation, reasoning, rl, or a name such as sst2 or gsm8k."""
    lr: Annotated[Number | None, Field(le=LARGEST), Flag("X")] = None
    """Check this learning rate instead of the file's."""
    r: Annotated[Integer | None, Field(le=LARGEST), Flag("N")] = None
    """Check this rank instead of the file's."""
    alpha: Annotated[Number | None, Field(le=LARGEST), Flag("X")] = None
    """Check this α instead of the file's."""


def task_of(name: str) -> str:
    """Return the task that a name means. Raises UsageError (unknown-task).

    >>> task_of("openai/gsm8k"), task_of("SEQ_CLS"), task_of("text-generation")
    ('reasoning', 'classification', 'generation')
    """
    last = name.rstrip("/").rsplit("/", maxsplit=1)[-1]
    word = re.sub(r"[\s-]+", "_", last.strip().lower())
    task = next((task for task in TASKS if word in (task, *OTHER_NAMES[task])), None)
    if task is None:
        raise UsageError(
            f"unknown kind of task: {name!r}",
            code="unknown-task",
            hint=f"use one of {', '.join(TASKS)}, or a name such as sst2, gsm8k, seq_cls or text_generation",
        )
    return task
