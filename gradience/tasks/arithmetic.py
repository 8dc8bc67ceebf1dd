"""Sums and differences, `… problem: 12 + 7 - 3 =`, for small causal models. The data are generated and need
no license.

The generator is `chain_sum` of reasoning-gym (extra `demo`), seeded: the same options give the same prompts
on every machine. This is not a human-written data set; say so wherever its scores are shown.
"""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Annotated, Literal

from pydantic import Field

from gradience.errors import UsageError, require
from gradience.settings import Positive
from gradience.tasks.base import AnswerScoring, Filter, GenerationTask, LikelihoodScoring, LikelihoodTask
from gradience.tasks.examples import PromptExample, content_id, prepare, role_of

# No digit, and no decimal or thousands separator with a digit behind it, may follow: 16 is not the answer of `16.5`.
_LEADING = re.compile(r"\s*(-?[0-9]+)(?![.,]?[0-9])")
# A minus behind a digit subtracts, and is no sign.
_ANY = re.compile(r"(?<![0-9])(?<![0-9][.,])((?:(?<![0-9] )-)?[0-9]+)(?![.,]?[0-9])")


def load(
    *,
    size: Positive = 14_000,
    min_terms: Annotated[int, Field(ge=2)] = 2,
    max_terms: Annotated[int, Field(ge=2)] = 3,
    min_digits: Positive = 1,
    max_digits: Positive = 2,
    seed: Annotated[int, Field(ge=0)] = 42,
    scorer: Literal["answer", "nll"] = "answer",
) -> GenerationTask | LikelihoodTask:
    """Make `size` examples, less what repeats (`counts`), each with the role that its text gives it.

    A prompt has `min_terms` to `max_terms` numbers of `min_digits` to `max_digits` digits. Seeds that differ by less
    than `size` share examples, which is harmless: an example has the same role in both.
    scorer: `nll` generates nothing and compares the likelihood of the correct answers.
    Raises MissingExtra, and UsageError (`task-range`) for a minimum above its maximum.
    """
    for unit, least, most in (("terms", min_terms, max_terms), ("digits", min_digits, max_digits)):
        if least > most:
            raise UsageError(
                f"`min_{unit}: {least}` is greater than `max_{unit}: {most}`",
                code="task-range",
                hint=f"set both, `min_{unit}` to the smaller number",
            )
    options = {
        "size": size,
        "min_terms": min_terms,
        "max_terms": max_terms,
        "min_digits": min_digits,
        "max_digits": max_digits,
        "seed": seed,
    }
    examples = prepare(_examples(options))
    source = {"generator": f"reasoning-gym {version('reasoning-gym')} chain_sum"}
    source |= {name: str(value) for name, value in options.items()}
    if scorer == "nll":
        return LikelihoodTask(name="arithmetic", scored_by=scorer, examples=examples, source=source)
    return GenerationTask(
        name="arithmetic",
        examples=examples,
        filters=FILTERS,
        same=same,
        # A token is never less than a character of the longest answer; the rest is the end, and some slack.
        max_new_tokens=max(len(example.response) for example in examples.all) + 8,
        stop=("\n",),
        source=source,
    )


def scoring(*, scorer: str = "answer", **_: object) -> AnswerScoring | LikelihoodScoring:
    """Return the scoring rule, from the option `scorer`."""
    return LikelihoodScoring() if scorer == "nll" else AnswerScoring(filters=FILTERS, same=same)


def leading(output: str) -> str | None:
    """The whole number with which the output begins."""
    match = _LEADING.match(output)
    return match[1] if match else None


def flexible(output: str) -> str | None:
    """Return the last whole number anywhere in the output."""
    matches = _ANY.findall(output)
    return matches[-1] if matches else None


FILTERS: Mapping[str, Filter] = {"leading": leading, "flexible": flexible}


def same(extracted: str, gold: str) -> bool:
    """Return True if both are the same integer: `007` is 7, and `-0` is 0."""
    return _plain(extracted) == _plain(gold)


def _plain(number: str) -> str:
    # Not int(): Python refuses to read the thousands of digits that a broken model may write.
    digits = number.removeprefix("-").lstrip("0") or "0"
    return f"-{digits}" if number.startswith("-") and digits != "0" else digits


def _examples(options: Mapping[str, int]) -> Iterator[PromptExample]:
    reasoning_gym = require("reasoning_gym", extra="demo")
    for row in reasoning_gym.create_dataset("chain_sum", **options):
        prompt = row["question"]
        key = content_id(prompt, exact=True)  # the canonical form of a text has no signs
        yield PromptExample(key, prompt, f" {row['answer']}", row["answer"], role_of(key))
