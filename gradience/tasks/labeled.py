"""From rows to labeled texts: roles of columns, names of labels, and errors in rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gradience.errors import InputError, UsageError, did_you_mean
from gradience.files.strict_json import MAX_DIGITS
from gradience.reports.bench_plan import Role
from gradience.tasks.examples import LabeledExample, canonical, content_id, role_of
from gradience.tasks.metrics import Metric
from gradience.tasks.row import Row
from gradience.tasks.rows import RowTable, Tables

_FALSE_TRUE = (("false", "False", "FALSE"), ("true", "True", "TRUE"))


class Columns(NamedTuple):
    """The names of the columns that make an example."""

    text: str
    label: str
    text_pair: str | None = None

    def texts(self, row: Row) -> tuple[str, str | None]:
        """The text of a row, and the second one of a pair. Raises InputError (`task-column`, `task-text`)."""
        return row.text(self.text), row.text(self.text_pair) if self.text_pair else None

    def word(self, row: Row, classes: Sequence[str] = ()) -> str:
        """The label as a word: of 1 and true the data type is forgotten. Raises InputError (`task-label`).

        classes: names of the data's classes; then a number is the place of such a name.
        """
        value = row.value(self.label)
        if classes and isinstance(value, int) and 0 <= value < len(classes):
            return classes[value]
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return str(int(value))
        if isinstance(value, str) and value.strip():
            return value.strip()
        raise InputError(
            f"{row.place}: column `{self.label}` contains {value!r:.40}, which is not a label",
            code="task-label",
            hint="use words, integers, true or false as labels",
        )


class Labels:
    """The labels that occur in `tables`: reading them checks every row.

    Raises InputError (`task-column`, `task-text`, `task-label`).
    """

    def __init__(self, tables: Tables | Mapping[Role, RowTable], columns: Columns) -> None:
        self.places: dict[str, str] = {}
        """Label -> the first row that has it."""
        self.trained: set[str] = set()
        """Labels in train, or in all data if the identities assign the roles."""
        for role, table in tables.items():
            classes = table.label_names.get(columns.label, ())
            for row in table.read():
                columns.texts(row)
                word = columns.word(row, classes)
                self.places.setdefault(word, row.place)
                if role in (None, "train"):
                    self.trained.add(word)

    def names(self) -> tuple[str, ...]:
        """The different labels to train on: numbers by size, otherwise by the alphabet."""
        whole = (word.removeprefix("-").isdecimal() and word.isascii() for word in self.trained)
        if all(whole) and all(len(word) <= MAX_DIGITS for word in self.trained):
            return tuple(sorted(self.trained, key=lambda word: (int(word), word)))
        return tuple(sorted(self.trained))

    def indices(self, names: Sequence[str]) -> Mapping[str, int]:
        """Place in `names` by label. One reading for the whole data: `1` is never once a name and once a place.

        Labels are names, or all of them are places in `names` (0, 1, …; false, true).
        Raises InputError (`task-label`) for the first label that is neither.
        """
        by_name = {name: place for place, name in enumerate(names)}
        by_place = {str(place): place for place in range(len(names))}
        if len(names) == 2:
            by_place |= {word: place for place, both in enumerate(_FALSE_TRUE) for word in both}
        words = self.places.keys()
        reading = by_place if words & by_place.keys() and not words & by_name.keys() else by_name
        for word, place in self.places.items():
            if word not in reading:
                raise InputError(
                    f"{place}: `{word}` is not one of the labels {', '.join(names)}",
                    code="task-label",
                    hint=did_you_mean(word, names) or "correct the row, or list all labels in label_names",
                )
        return reading


def labeled(
    tables: Tables | Mapping[Role, RowTable],
    columns: Columns,
    indices: Mapping[str, int],
    *,
    exact: bool = False,
) -> Iterator[LabeledExample]:
    """The examples of `tables`, whose labels were read.

    `exact` tells texts apart that differ only in case, accents, punctuation or spacing.
    """
    for role, table in tables.items():
        classes = table.label_names.get(columns.label, ())
        for row in table.read():
            text, second = columns.texts(row)
            key = pair_id(text, second, exact=exact)
            yield LabeledExample(key, text, indices[columns.word(row, classes)], role or role_of(key), second)


def pair_id(text: str, text_pair: str | None, *, exact: bool = False) -> str:
    """The identity of a text or of a pair: that of its parts in their order, with a line break in between."""
    if text_pair is None:
        return content_id(text, exact=exact)
    parts = (text, text_pair) if exact else (canonical(text), canonical(text_pair))
    return content_id("\n".join(parts), exact=True)


def check_labels(names: Sequence[str], metric: Metric, tables: Tables) -> None:
    """Raise InputError (`task-label`) unless there are at least two labels and all are distinct.

    Raises UsageError (`task-metric`) if `metric` needs exactly two labels.
    """
    if len(set(names)) < max(2, len(names)):
        source = " and ".join(table.source for table in tables.values())
        raise InputError(
            f"{source}: its labels are {', '.join(names) or 'none'}",
            code="task-label",
            hint="check `label_column` and `label_names`: at least two different labels are needed",
        )
    if metric == "f1" and len(names) != 2:
        raise UsageError(
            f"f1 needs exactly two labels (it is computed for the second), but there are {len(names)}",
            code="task-metric",
            hint="use `metric: accuracy` or `metric: matthews`",
        )
