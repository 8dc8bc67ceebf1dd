"""Texts with their labels from a user's own files (JSONL, CSV, TSV): `text`, `label`, and perhaps `text_pair`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from gradience.errors import InputError, UsageError, did_you_mean
from gradience.files.strict_json import MAX_DIGITS
from gradience.reports.bench_plan import Role
from gradience.tasks.base import ClassificationTask, LabelScoring
from gradience.tasks.examples import LabeledExample, canonical, content_id
from gradience.tasks.metrics import Metric
from gradience.tasks.rows import Column, Row, RowTable, Tables, checked, gather, sources_of, tables_of


def load(
    *,
    file: Path | None = None,
    train_file: Path | None = None,
    dev_file: Path | None = None,
    confirm_file: Path | None = None,
    dev: Annotated[int, Field(ge=0)] | None = None,
    columns: dict[Column, str] | None = None,
    label_names: Annotated[list[str], Field(min_length=2)] | None = None,
    metric: Metric = "accuracy",
) -> ClassificationTask:
    """Examples from one `file`, split by its texts, or from `train_file` and `confirm_file`.

    label_names: in the order of the head's outputs; by default the sorted labels of train.
    Raises UsageError (`task-metric`: f1 of more than two labels), InputError (`task-label`), and as `tables_of` and
    `gather` do.
    """
    tables = tables_of(file, train=train_file, dev=dev_file, confirm=confirm_file, columns=columns)
    labels = Labels(tables)
    names = label_names or labels.names()
    if len(set(names)) < max(2, len(names)):
        raise InputError(
            f"{' and '.join(sources_of(tables).values())}: its labels are {', '.join(names) or 'none'}",
            code="task-label",
            hint="check the label column and `label_names`: at least two different labels are needed",
        )
    if metric == "f1" and len(names) != 2:
        raise UsageError(
            f"f1 needs exactly two labels (it is computed for the second), but there are {len(names)}",
            code="task-metric",
            hint="use `metric: accuracy` or `metric: matthews`",
        )
    indices = labels.indices(names)

    def make(row: Row, role: Role) -> LabeledExample:
        text, second = texts_of(row)
        return LabeledExample(pair_id(text, second, exact=True), text, indices[word_of(row)], role, second)

    return ClassificationTask(
        name="classification",
        examples=gather(tables, "labels", lambda row: "\n".join(filter(None, texts_of(row))), make, dev),
        label_names=tuple(names),
        metric=metric,
        source=sources_of(tables),
    )


def scoring(*, metric: Metric = "accuracy", **_: object) -> LabelScoring:
    """Return the scoring rule for labels; it depends only on the option `metric`."""
    return LabelScoring(metric=metric)


# ---------------------------------------------------------------- labels


_FALSE_TRUE = (("false", "False", "FALSE"), ("true", "True", "TRUE"))


def texts_of(row: Row) -> tuple[str, str | None]:
    """The text of a row, and the second one of a pair. Raises InputError (`task-column`, `task-text`)."""
    return row.text("text"), row.text("text_pair") if row.has("text_pair") else None


def word_of(row: Row) -> str:
    """The label as a word: of 1 and true the data type is forgotten. Raises InputError (`task-label`)."""
    value = row.value("label")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise InputError(
        f"{row.place}: column `label` contains {value!r:.40}, which is not a label",
        code="task-label",
        hint="use words, integers, true or false as labels",
    )


class Labels:
    """The labels that occur in `tables`: reading them checks every row.

    Raises what `checked` raises, and InputError (`task-text`, `task-label`).
    """

    def __init__(self, tables: Tables | Mapping[Role, RowTable]) -> None:
        self.places: dict[str, str] = {}
        """Label -> the first row that has it."""
        self.trained: set[str] = set()
        """Labels in train, or in all data if the identities assign the roles."""
        paired: bool | None = None
        for role, table in tables.items():
            for row in checked(table, "labels"):
                _, second = texts_of(row)
                if paired not in (None, second is not None):
                    raise row.wrong("text_pair", "has a text in some rows only")
                paired, word = second is not None, word_of(row)
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


def pair_id(text: str, text_pair: str | None, *, exact: bool = False) -> str:
    """The identity of a text or of a pair: that of its parts in their order, with a line break in between."""
    if text_pair is None:
        return content_id(text, exact=exact)
    parts = (text, text_pair) if exact else (canonical(text), canonical(text_pair))
    return content_id("\n".join(parts), exact=True)
