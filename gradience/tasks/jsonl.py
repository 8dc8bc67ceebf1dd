"""Prompts with their answers from a user's own files (JSONL, CSV, TSV): `prompt` and `completion`, `answer` or both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gradience.artifacts.bench_plan import Role
from gradience.errors import InputError
from gradience.models.settings import Positive
from gradience.tasks.base import AnswerScoring, GenerationTask
from gradience.tasks.examples import PromptExample, content_id
from gradience.tasks.rows import Row
from gradience.tasks.scorers import Scorer, scorer_of
from gradience.tasks.user_rows import Gathering, answer_of, tables_of

ROOM, MOST_TOKENS = 8, 1024
"""Tokens beside those of the longest response, and how many an output gets at most unless an option says more."""


def load(
    *,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    scorer: Literal["exact", "normalised", "contains", "regex", "number"] = "exact",
    pattern: Annotated[str, Field(min_length=1)] | None = None,
    stop: list[str] | None = None,
    max_new_tokens: Positive | None = None,
) -> GenerationTask:
    """Examples from one `file`, split by its prompts, or from `train_file` and `confirm_file`.

    What is trained is the `completion`, or the `answer` behind a blank. The gold answer is the `answer`, or what the
    scorer extracts from the `completion`. pattern: for `regex`, with one group. stop: an output ends before them.
    max_new_tokens: by default as many as the longest response has bytes, and some, at most 1,024.
    Raises UsageError (`task-scorer`, `task-pattern`), InputError (`task-answer`: a row's own completion would be scored
    wrong), and as `tables_of` and `Gathering.examples` do.
    """
    rule = scorer_of(scorer, pattern)

    def make(row: Row, role: Role) -> Iterator[PromptExample]:
        prompt = row.text("prompt")
        response, answer = trained_and_gold(row, role, rule)
        yield PromptExample(content_id(prompt, exact=True), prompt, response, answer, role)

    tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file)
    examples = Gathering("prompts", lambda row: row.text("prompt"), make).examples(tables, dev)
    return GenerationTask(
        name="jsonl",
        scored_by=rule.name if pattern is None else f"{rule.name} {pattern}",
        examples=examples,
        filters={rule.name: rule.extract},
        same=rule.same,
        max_new_tokens=max_new_tokens or room_for(example.response for example in examples.all),
        stop=tuple(stop or ()),
        source={role or "all": table.source for role, table in tables.items()},
    )


def scoring(*, scorer: str = "exact", pattern: str | None = None, **_: object) -> AnswerScoring:
    """How outputs are scored; of the options `scorer` and `pattern` matter. Raises as `load` does."""
    rule = scorer_of(scorer, pattern)
    return AnswerScoring(filters={rule.name: rule.extract}, same=rule.same)


def room_for(responses: Iterator[str]) -> int:
    """How many tokens an output may have: a token is never less than a byte of the longest response."""
    longest = max((len(response.encode()) for response in responses), default=0)
    return min(longest + ROOM, MOST_TOKENS)


def trained_and_gold(row: Row, role: Role, rule: Scorer) -> tuple[str, str]:
    """What follows the prompt in training, and the gold answer. Raises InputError (`task-text`, `task-answer`)."""
    answer = answer_of(row).strip() if row.has("answer") else None
    if row.has("completion"):
        response = row.text("completion")
        return response, gold_of(row, response, answer, rule)
    assert answer is not None
    response = answer if row.text("prompt")[-1].isspace() else f" {answer}"
    # What only an answer is known of may be asked for in another form than it is written in, unless it is trained.
    return response, gold_of(row, response, answer, rule) if role == "train" else answer


def gold_of(row: Row, response: str, answer: str | None, rule: Scorer) -> str:
    """The gold answer of a row, which its own response must have. Raises InputError (`task-answer`)."""
    extracted = rule.extract(response)
    gold = extracted if answer is None else answer
    if extracted is not None and gold is not None and rule.same(extracted, gold):
        return gold
    what = "nothing" if extracted is None else f"{extracted[:80]!r}"
    expected = "" if answer is None else f", and its answer is {answer[:80]!r}"
    raise InputError(
        f"{row.place}: its own response would be scored wrong: `{rule.name}` finds {what} in it{expected}",
        code="task-answer",
        hint="correct the row, or choose another scorer: exact, normalised, contains, regex, number",
    )
