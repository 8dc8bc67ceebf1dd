"""What the adapter is for: our four tasks, and the names of data sets and libraries that mean one of them."""

from __future__ import annotations

import re

from gradience.errors import UsageError

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
            f"no kind of task is called {name!r}",
            code="unknown-task",
            hint=f"use one of {', '.join(TASKS)}, or a name such as sst2, gsm8k, seq_cls or text_generation",
        )
    return task
