"""From rows to labelled texts: which column is what, what the labels are called, and whose row is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradience.adapters.strict_json import MAX_DIGITS
from gradience.errors import InputError, UsageError, did_you_mean
from gradience.reports.bench_plan import Role
from gradience.tasks.examples import LabelledExample, canonical, content_id, role_of
from gradience.tasks.metrics import Metric
from gradience.tasks.rows import Row, Table


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns that make an example."""

    text: str
    label: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """One row as it was read: its label is still a word."""

    place: str
    text: str
    text_pair: str | None
    label: str
    """As a word: of 1 and true the data type is forgotten."""
    role: Role | None
    """None where the identity decides."""


def read(table: Table, columns: Columns, role: Role | None) -> Iterator[Read]:
    """The rows of `table`. Raises InputError (`task-column`, `task-text`, `task-label`)."""
    for row in table.rows:
        text = row.text(columns.text)
        pair = row.text(columns.text_pair) if columns.text_pair else None
        label = _label(row, columns.label, table.label_names.get(columns.label, ()))
        yield Read(row.place, text, pair, label, role)


def label_names(rows: Iterable[Read]) -> tuple[str, ...]:
    """The different labels in `rows`: numbers by size, otherwise by the alphabet."""
    labels = {row.label for row in rows}
    if all(_is_whole(label) for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def labelled(rows: Sequence[Read], names: Sequence[str], *, exact: bool = False) -> Iterator[LabelledExample]:
    """The examples of `rows`. Labels are names, or all of them are places in `names` (0, 1, …; false, true).

    `exact` tells texts apart that differ only in case, accents, punctuation or spacing.
    Raises InputError (`task-label`) for the first label that is neither.
    """
    indices = _indices(rows, names)
    for row in rows:
        key = pair_id(row.text, row.text_pair, exact=exact)
        role = row.role or role_of(key)
        yield LabelledExample(key, row.text, indices[row.label], role, row.text_pair)


def pair_id(text: str, text_pair: str | None, *, exact: bool = False) -> str:
    """The identity of a text or of a pair: that of its parts in their order, with a line break in between."""
    if text_pair is None:
        return content_id(text, exact=exact)
    parts = (text, text_pair) if exact else (canonical(text), canonical(text_pair))
    return content_id("\n".join(parts), exact=True)


def check_labels(names: Sequence[str], metric: Metric, source: str) -> None:
    """Raise InputError (`task-label`) unless there are two labels or more, each once.

    UsageError (`task-metric`) where `metric` needs exactly two.
    """
    if len(set(names)) < max(2, len(names)):
        raise InputError(
            f"{source}: its labels are {', '.join(names) or 'none'}",
            code="task-label",
            hint="check `label_column` and `label_names`: two labels or more are needed, each once",
        )
    if metric == "f1" and len(names) != 2:
        raise UsageError(
            f"f1 needs exactly two labels (it is that of the second), and there are {len(names)}",
            code="task-metric",
            hint="use `metric: accuracy` or `metric: matthews`",
        )


def _indices(rows: Sequence[Read], names: Sequence[str]) -> Mapping[str, int]:
    """Place in `names` by label. One reading for the whole data: `1` is never once a name and once a place."""
    by_name = {name: place for place, name in enumerate(names)}
    by_place = {str(place): place for place in range(len(names))}
    if len(names) == 2:
        by_place |= {word: place for place, both in enumerate(_FALSE_TRUE) for word in both}
    words = {row.label for row in rows}
    places = words & by_place.keys() and not words & by_name.keys()
    reading = by_place if places else by_name
    for row in rows:
        if row.label not in reading:
            raise InputError(
                f"{row.place}: `{row.label}` is not one of the labels {', '.join(names)}",
                code="task-label",
                hint=did_you_mean(row.label, names) or "correct the row, or list all labels in label_names",
            )
    return reading


def _label(row: Row, column: str, class_names: Sequence[str]) -> str:
    """The label as a word; where the data name their classes, a number is the place of such a name."""
    value = row.value(column)
    if class_names and isinstance(value, int) and 0 <= value < len(class_names):
        return class_names[value]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise InputError(
        f"{row.place}: column `{column}` contains {value!r:.40}, which is not a label",
        code="task-label",
        hint="use words, integers, true or false as labels",
    )


def _is_whole(label: str) -> bool:
    return label.removeprefix("-").isdecimal() and label.isascii() and len(label) <= MAX_DIGITS


_FALSE_TRUE = (("false", "False", "FALSE"), ("true", "True", "TRUE"))
