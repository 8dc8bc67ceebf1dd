"""Prompts with their answers from a user's own files (JSONL, CSV, TSV): `prompt` and `completion`, `answer` or both."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from gradience.errors import InputError
from gradience.reports.bench_plan import Role
from gradience.settings import Positive
from gradience.tasks import base
from gradience.tasks.examples import ChoiceExample, PromptExample, content_id
from gradience.tasks.rows import Column, Row, gather, kind_of, sources_of, tables_of
from gradience.tasks.scorers import NLL, ScorerName, gold_of, room_for, scorer_of, scoring_by


def load(
    *,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    columns: dict[Column, str] | None = None,
    scorer: ScorerName | Literal["multiple_choice", "nll"] = "exact",
    pattern: Annotated[str, Field(min_length=1)] | None = None,
    stop: list[str] | None = None,
    max_new_tokens: Positive | None = None,
    choose_by: base.ChooseBy = "sum",
) -> base.GenerationTask | base.ChoiceTask | base.LikelihoodTask:
    """Examples from one `file`, split by its prompts, or from `train_file` and `confirm_file`.

    What is trained is the `completion`, or the `answer` behind a blank. The gold answer is the `answer`, or what the
    scorer extracts from the `completion`. pattern: for `regex`, with one group. stop: an output ends before them.
    choose_by: for `multiple_choice`, which reads `prompt`, `choices` and `answer` and generates nothing.
    scorer: `nll` generates nothing either, and compares the likelihoods of the responses, or of whole texts in `text`.
    columns: our names of the columns -> the file's; see `gradience.tasks.rows.laid_out`.
    max_new_tokens: by default as many as the longest response has bytes, and some, at most 1,024.
    Raises UsageError (`task-scorer`, `task-pattern`), InputError (`task-answer`: a row's own completion would be scored
    wrong), and as `tables_of` and `gather` do.
    """
    tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file, columns=columns)
    source = sources_of(tables)
    if scorer == "multiple_choice":
        return base.ChoiceTask(
            name="jsonl",
            scored_by=f"{scorer} {choose_by}",
            examples=gather(tables, "choices", _asked_with_choices, choice_of, dev),
            choose_by=choose_by,
            source=source,
        )
    rule = scorer_of("exact" if scorer == NLL else scorer, pattern)
    first = next(next(iter(tables.values())).read(), None) if scorer == NLL else None
    texts = first is not None and kind_of(first) == "texts"

    def make(row: Row, role: Role) -> PromptExample:
        if texts:
            return PromptExample(content_id(row.text("text"), exact=True), "", row.text("text"), "", role)
        prompt, response = row.text("prompt"), response_of(row)
        gold = response.strip() if scorer == NLL else _gold(row, response, role, rule)
        return PromptExample(content_id(prompt, exact=True), prompt, response, gold, role)

    if texts:
        examples = gather(tables, "texts", lambda row: row.text("text"), make, dev)
        return base.LikelihoodTask(
            name="jsonl", scored_by=NLL, examples=examples, source=source, rolling=True
        )
    examples = gather(tables, "prompts", lambda row: row.text("prompt"), make, dev)
    if scorer == NLL:
        return base.LikelihoodTask(name="jsonl", scored_by=NLL, examples=examples, source=source)
    return base.GenerationTask(
        name="jsonl",
        scored_by=scorer if pattern is None else f"{scorer} {pattern}",
        examples=examples,
        filters=rule.filters,
        same=rule.same,
        max_new_tokens=max_new_tokens or room_for(examples),
        stop=tuple(stop or ()),
        source=source,
    )


def scoring(
    *, scorer: str = "exact", pattern: str | None = None, choose_by: base.ChooseBy = "sum", **_: object
) -> base.AnswerScoring | base.ChoiceScoring | base.LikelihoodScoring:
    """Return the scoring rule, from the options `scorer`, `pattern` and `choose_by`. Raises as `load`
    does.
    """
    if scorer == "multiple_choice":
        return base.ChoiceScoring(choose_by=choose_by)
    return scoring_by(scorer, pattern)


def response_of(row: Row) -> str:
    """Return the text after the prompt: the `completion` as it is, or the `answer` after a blank. Raises
    InputError.
    """
    if row.has("completion"):
        return row.text("completion")
    return row.answer().strip() if row.text("prompt")[-1].isspace() else f" {row.answer().strip()}"


def _gold(row: Row, response: str, role: Role, rule: base.AnswerScoring) -> str:
    """The gold answer. Raises InputError (`task-text`, `task-answer`)."""
    answer = row.answer().strip() if row.has("answer") else None
    # Without a completion, the scorer may expect another form than the answer's own text, except in training.
    if answer is not None and not row.has("completion") and role != "train":
        return answer
    return gold_of(row, response, answer, rule)


def choice_of(row: Row, role: Role = "confirm") -> ChoiceExample:
    """The example of a row. Raises InputError (`task-choices`, `task-answer`, `task-text`)."""
    prompt, choices = row.text("prompt"), choices_of(row)
    key = content_id("\0".join([prompt, *choices]), exact=True)
    blank = "" if prompt[-1].isspace() else " "
    return ChoiceExample(key, prompt, choices, _label(row, choices), role, blank)


def _asked_with_choices(row: Row) -> str:
    return "\n".join([row.text("prompt"), *choices_of(row)])


def choices_of(row: Row) -> tuple[str, ...]:
    """Two texts or more, each once. Raises InputError (`task-choices`, `task-text`)."""
    choices = row.items("choices", "choice", 2)
    texts = tuple(Row(row.place, {"choices": choice}).answer("choices").strip() for choice in choices)
    if len(set(texts)) < len(texts):
        raise InputError(
            f"{row.place}: a choice occurs twice", code="task-choices", hint="give each choice once"
        )
    return texts


def _label(row: Row, choices: tuple[str, ...]) -> int:
    """The place of the correct choice: `answer` is its text, or its place counted from 0."""
    word = row.answer().strip()
    place = int(word) if word.isdecimal() and len(word) < 4 else None
    readings = {choices.index(word)} if word in choices else set()
    if place is not None and place < len(choices):
        readings.add(place)
    if len(readings) == 1:
        return readings.pop()
    problem = "a choice, and the place of another one" if readings else f"none of the {len(choices)} choices"
    raise InputError(
        f"{row.place}: the answer is {word[:80]!r}, which is {problem}",
        code="task-answer",
        hint="write the text of a choice, or its index (0 is the first)",
    )
