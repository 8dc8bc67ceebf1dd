"""A task of your own: which unit of length is asked for, as a generation task for a causal model.

In a config of Bench:

    task: {profile: examples/custom_task.py, options: {size: 4000}}

It is code, so `gradience bench run` runs it only with --allow-code. The keyword parameters of `load` are the options;
their types are checked. More: docs/tasks.md

python examples/custom_task.py        prints the roles, the counts and one example
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gradience.tasks.base import GenerationTask
from gradience.tasks.examples import ROLES, PromptExample, content_id, prepare, role_of

UNITS = {"kilometres": 1000, "metres": 1}


def load(*, size: int = 2000) -> GenerationTask:
    """`size` lengths to turn into metres."""
    return GenerationTask(
        name="metres",
        examples=prepare(lengths(size)),  # no duplicates, in an order that is as good as random
        filters={"metres": metres, "any": lambda output: last(r"\d+", output)},  # the first one decides
        same=lambda extracted, gold: extracted == gold,
        max_new_tokens=16,
        stop=("\n",),
        source={"generator": "examples/custom_task.py", "size": str(size)},  # goes into every report
    )


def lengths(size: int) -> Iterator[PromptExample]:
    for number in range(1, size // 2 + 1):
        for unit, factor in UNITS.items():
            prompt = f"{number} {unit} are"
            key = content_id(prompt)  # from the text alone: the same on every machine
            answer = str(number * factor)
            yield PromptExample(key, prompt, f" {answer} metres.", answer, role_of(key))


def metres(output: str) -> str | None:
    """The number before the word: a filter returns None where there is no answer."""
    return last(r"(\d+) metres", output)


def last(pattern: str, text: str) -> str | None:
    matches = re.findall(pattern, text)
    return matches[-1] if matches else None


if __name__ == "__main__":
    task = load()
    print({role: len(task.examples.of(role)) for role in ROLES}, task.examples.counts)
    print(task.examples.of("train")[0])
