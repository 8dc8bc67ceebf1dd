"""One row of examples: values by column, and the place that an error names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradience.errors import InputError, did_you_mean
from gradience.files import strict_json
from gradience.words import counted


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its position in the file."""

    place: str
    """`reviews.csv: line 12`, for errors."""
    values: Mapping[str, object]

    def value(self, column: str, *, chosen: bool = False) -> object:
        """Return the value of `column`. Raises InputError (`task-column`).

        chosen: the user named the column.
        """
        if column not in self.values:
            names = f"the columns are {', '.join(f'`{name}`' for name in self.values)}"
            raise InputError(
                f"{self.place}: no column `{column}`",
                code="task-column",
                hint=did_you_mean(
                    column, self.values, names if chosen else f"{names}: rename one to `{column}`"
                ),
            )
        return self.values[column]

    def text(self, column: str) -> str:
        """Return the text in `column`, unchanged. Raises InputError (`task-column`, `task-text`)."""
        text = self.value(column)
        if not isinstance(text, str):
            raise self.wrong(column, f"contains {json.dumps(text, default=str)[:40]}, which is not text")
        if not text.strip():
            raise self.wrong(column, "is empty")
        return text

    def answer(self, column: str = "answer") -> str:
        """Return the text in `column`, unchanged; numbers become text. Raises InputError (`task-column`,
        `task-text`)."""
        value = self.value(column)
        return (
            str(value)
            if isinstance(value, int | float) and not isinstance(value, bool)
            else self.text(column)
        )

    def items(self, column: str, noun: str, least: int) -> Sequence[Any]:
        """The list in `column`: a JSON list, or in CSV the text of one. Raises InputError (`task-text`)."""
        value = self.value(column)
        if isinstance(value, str):
            try:
                value = strict_json.parse(value)
            except ValueError:
                raise self.wrong(column, "is not a JSON list") from None
        if not isinstance(value, list) or len(value) < least:
            raise self.wrong(column, f"is not a list of at least {counted(least, noun)}")
        return value

    @property
    def id(self) -> str | None:
        """Return the row's own id; None if it has none. Raises InputError (`task-id`)."""
        value = self.values.get("id")
        if isinstance(value, str | int) and not isinstance(value, bool):
            return self.text("id") if isinstance(value, str) and value.strip() else str(value).strip() or None
        if value is None:
            return None
        raise InputError(
            f"{self.place}: the id is {value!r:.40}, which is neither a text nor a whole number",
            code="task-id",
            hint="write it in quotes, or remove it",
        )

    def has(self, column: str) -> bool:
        """Return True if `column` has a value: not null, and not blank in CSV, which has every column in
        every row.
        """
        value = self.values.get(column)
        return bool(value.strip()) if isinstance(value, str) else value is not None

    def wrong(self, column: str, problem: str) -> InputError:
        """Return the error (`task-text`) for an unusable row. what: the problem with the column."""
        return InputError(
            f"{self.place}: column `{column}` {problem}",
            code="task-text",
            hint="remove the row, or correct its text",
        )
