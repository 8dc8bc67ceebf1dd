"""Prompts with their answers from a user's own files (JSONL, CSV, TSV): `prompt` and `completion`, `answer` or both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gradience.reports.bench_plan import Role
from gradience.settings import Positive
from gradience.tasks.base import (
    AnswerScoring,
    ChoiceScoring,
    ChoiceTask,
    ChooseBy,
    GenerationTask,
    LikelihoodScoring,
    LikelihoodTask,
)
from gradience.tasks.choices import choice_examples
from gradience.tasks.examples import PromptExample, content_id
from gradience.tasks.rows import Row
from gradience.tasks.scorers import NLL, Scorer, ScorerName, gold_of, room_for, scorer_of
from gradience.tasks.user_rows import Gathering, answer_of, tables_of


def load(
    *,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    scorer: ScorerName | Literal["multiple_choice", "nll"] = "exact",
    pattern: Annotated[str, Field(min_length=1)] | None = None,
    stop: list[str] | None = None,
    max_new_tokens: Positive | None = None,
    choose_by: ChooseBy = "sum",
) -> GenerationTask | ChoiceTask | LikelihoodTask:
    """Examples from one `file`, split by its prompts, or from `train_file` and `confirm_file`.

    What is trained is the `completion`, or the `answer` behind a blank. The gold answer is the `answer`, or what the
    scorer extracts from the `completion`. pattern: for `regex`, with one group. stop: an output ends before them.
    choose_by: for `multiple_choice`, which reads `prompt`, `choices` and `answer` and generates nothing.
    scorer: `nll` generates nothing either, and compares how likely the responses are.
    max_new_tokens: by default as many as the longest response has bytes, and some, at most 1,024.
    Raises UsageError (`task-scorer`, `task-pattern`), InputError (`task-answer`: a row's own completion would be scored
    wrong), and as `tables_of` and `Gathering.examples` do.
    """
    tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file)
    source: dict[str, str] = {role or "all": table.source for role, table in tables.items()}
    if scorer == "multiple_choice":
        way = f"{scorer} {choose_by}"
        return ChoiceTask(
            name="jsonl",
            scored_by=way,
            examples=choice_examples(tables, dev),
            choose_by=choose_by,
            source=source,
        )
    rule = scorer_of("exact" if scorer == NLL else scorer, pattern)

    def make(row: Row, role: Role) -> Iterator[PromptExample]:
        prompt = row.text("prompt")
        if scorer == NLL:
            response = response_of(row)
            answer = response.strip()
        else:
            response, answer = trained_and_gold(row, role, rule)
        yield PromptExample(content_id(prompt, exact=True), prompt, response, answer, role)

    examples = Gathering("prompts", lambda row: row.text("prompt"), make).examples(tables, dev)
    if scorer == NLL:
        return LikelihoodTask(name="jsonl", scored_by=NLL, examples=examples, source=source)
    return GenerationTask(
        name="jsonl",
        scored_by=rule.name if pattern is None else f"{rule.name} {pattern}",
        examples=examples,
        filters={rule.name: rule.extract},
        same=rule.same,
        max_new_tokens=max_new_tokens or room_for(example.response for example in examples.all),
        stop=tuple(stop or ()),
        source=source,
    )


def scoring(
    *, scorer: str = "exact", pattern: str | None = None, choose_by: ChooseBy = "sum", **_: object
) -> AnswerScoring | ChoiceScoring | LikelihoodScoring:
    """How outputs are scored; of the options `scorer`, `pattern` and `choose_by` matter. Raises as `load` does."""
    if scorer == "multiple_choice":
        return ChoiceScoring(choose_by=choose_by)
    if scorer == NLL:
        return LikelihoodScoring()
    rule = scorer_of(scorer, pattern)
    return AnswerScoring(filters={rule.name: rule.extract}, same=rule.same)


def response_of(row: Row) -> str:
    """What follows the prompt: the `completion` as it is, or the `answer` behind a blank. Raises InputError."""
    if row.has("completion"):
        return row.text("completion")
    return answer_of(row).strip() if row.text("prompt")[-1].isspace() else f" {answer_of(row).strip()}"


def trained_and_gold(row: Row, role: Role, rule: Scorer) -> tuple[str, str]:
    """What follows the prompt in training, and the gold answer. Raises InputError (`task-text`, `task-answer`)."""
    response, answer = response_of(row), answer_of(row).strip() if row.has("answer") else None
    if row.has("completion"):
        return response, gold_of(row, response, answer, rule)
    assert answer is not None
    # What only an answer is known of may be asked for in another form than it is written in, unless it is trained.
    return response, gold_of(row, response, answer, rule) if role == "train" else answer
