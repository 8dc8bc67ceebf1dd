"""Rows of `prompt`, `choices` and `answer`: one of several given responses is the correct one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gradience.errors import InputError
from gradience.reports.bench_plan import Role
from gradience.tasks.examples import ChoiceExample, Examples, content_id
from gradience.tasks.rows import Row, Table
from gradience.tasks.user_rows import Gathering, answer_of, list_of


def choice_examples(tables: Mapping[Role | None, Table], dev: int | None) -> Examples[ChoiceExample]:
    """The examples of `tables`. Raises InputError (`task-choices`, `task-answer`), and as `Gathering.examples` does."""

    def make(row: Row, role: Role) -> Iterator[ChoiceExample]:
        yield choice_of(row, role)

    return Gathering("choices", lambda row: "\n".join([row.text("prompt"), *choices_of(row)]), make).examples(
        tables, dev
    )


def choice_of(row: Row, role: Role = "confirm") -> ChoiceExample:
    """The example of a row. Raises InputError (`task-choices`, `task-answer`, `task-text`)."""
    prompt, choices = row.text("prompt"), choices_of(row)
    key = content_id("\0".join([prompt, *choices]), exact=True)
    blank = "" if prompt[-1].isspace() else " "
    return ChoiceExample(key, prompt, choices, _label(row, choices), role, blank)


def choices_of(row: Row) -> tuple[str, ...]:
    """Two texts or more, each once. Raises InputError (`task-choices`, `task-text`)."""
    choices = list_of(row, "choices", "choice", 2)
    texts = tuple(answer_of(Row(row.place, {"choices": choice}), "choices").strip() for choice in choices)
    if len(set(texts)) < len(texts):
        raise InputError(
            f"{row.place}: a choice is there twice", code="task-choices", hint="give each choice once"
        )
    return texts


def _label(row: Row, choices: tuple[str, ...]) -> int:
    """The place of the correct choice: `answer` is its text, or its place counted from 0."""
    word = answer_of(row).strip()
    place = int(word) if word.isdecimal() and len(word) < 4 else None
    readings = {choices.index(word)} if word in choices else set()
    if place is not None and place < len(choices):
        readings.add(place)
    if len(readings) == 1:
        return readings.pop()
    what = "a choice, and the place of another one" if readings else f"none of the {len(choices)} choices"
    raise InputError(
        f"{row.place}: the answer is {word[:80]!r}, which is {what}",
        code="task-answer",
        hint="write the text of a choice, or its place: 0 is the first",
    )
