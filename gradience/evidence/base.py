"""Contents of a log as a reader returns them: task, settings, and a score for every example."""

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from gradience.digests import sha256_text
from gradience.errors import InputError, UsageError, did_you_mean
from gradience.statistics.groups import spelling_key
from gradience.words import listed, printable

MAX_ITEMS = 200_000
"""Examples of one log: four times the largest test set in common use; two logs take about 400 MB."""
SMALLEST, LARGEST = 1e-100, 1e100
"""Absolute values of a score that is not 0: the squares of their differences are still numbers."""
EXCERPT = 100
"""Characters of an example, and of an answer, that a report shows."""


@dataclass(frozen=True, slots=True)
class LogExample:
    """One example of a log."""

    id: str
    document: str | None = None
    """Digest of the question with the gold answer; None if the log does not contain them."""
    prompt: str | None = None
    """Digest of the text that the model was given; None if the log does not contain it."""
    excerpt: str = ""
    """The end of the prompt: in front of it are instructions and few-shot examples, which all examples share."""
    output: str = ""
    """Beginning of the model's output."""
    score: float = 0.0
    spelling: str | None = None
    """Digest of the text that spellings of it share; None if the log does not contain it."""
    group: str | None = None
    """Value in the column of groups."""


@dataclass(frozen=True, slots=True)
class Log:
    """One log: what was evaluated, how, and the items by their ids."""

    path: Path
    format: str
    """As a reader of the report knows it: `lm-eval`."""
    metric: str
    items: Mapping[str, LogExample]
    filter: str | None = None
    """Filter that extracted the answers, if the log has several."""
    task: str | None = None
    model: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that must agree on both sides, by name: `few-shot examples` -> `5`."""
    lower_is_better: bool | None = None
    """Direction of the metric according to the log; None if the log does not say."""
    notes: tuple[str, ...] = ()
    """Remarks about this log."""


class Wanted(NamedTuple):
    """Score to use if a log has several."""

    metric: str | None = None
    filter: str | None = None
    group: str | None = None
    """Column of groups."""


class LogFormat(NamedTuple):
    """A format of logs."""

    name: str
    fits: Callable[[Path, Mapping[str, Any]], bool]
    """True if a file looks like this format, by its name and its first JSON line."""
    read: Callable[[Path, Wanted], Log]


def choose(
    path: Path, option: str, names: Iterable[str], wanted: str | None, others: Iterable[str] = ()
) -> str:
    """Return the one of `names` that `--option` names, or the only one there is.

    others: what the log has under such a name and no number for each example. Raises UsageError (`log-choice`), which
    lists them; InputError (`log-no-score`) if there is none.
    """
    known, unfit = list(names), list(others)
    unusable = f"; {_names(unfit)}: no number for each example" if unfit else ""
    if not known:
        raise InputError(
            f"{path}: it has no per-example scores{unusable}",
            code="log-no-score",
            hint="log a metric that gives one number for each example, such as exact_match or acc",
        )
    listing = _names(known)
    if wanted is not None:
        if wanted in known:
            return wanted
        raise UsageError(
            f"{path}: no {option} {wanted!r} in it; it has {listing}{unusable}",
            code="log-choice",
            hint=did_you_mean(wanted, known, f"choose one: --{option} {printable(known[0])}"),
        )
    if len(known) > 1:
        raise UsageError(
            f"{path}: several {option}s in it: {listing}",
            code="log-choice",
            hint=f"choose the planned one, such as --{option} {printable(known[0])}",
        )
    return known[0]


def _names(names: Sequence[str]) -> str:
    return listed([printable(name[:EXCERPT]) for name in names], 12)


def number(value: Any) -> float | None:
    """A score as a number, `true` as 1; None for anything else, NaN and infinity as they are."""
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return None


class LogRow(NamedTuple):
    """An example as a reader finds it, before the metric is chosen."""

    place: str
    item: LogExample
    """Its score is yet to come."""
    scores: Mapping[str, Any]
    """The value of each metric; None for a value that is not a number."""


def add(rows: dict[str, LogRow], row: LogRow) -> None:
    """Put a row into `rows` under its id. Raises InputError: `log-duplicate` for an id that is there, `too-large`."""
    if row.item.id in rows:
        raise InputError(
            f"{row.place}: the id {row.item.id[:100]!r} occurs twice",
            code="log-duplicate",
            hint="give every example its own id, and repeated runs their own logs",
        )
    if len(rows) >= MAX_ITEMS:
        raise InputError(
            f"{row.place}: more than {MAX_ITEMS:,} examples",
            code="too-large",
            hint="split the logs by task, or take the same random sample of both",
        )
    rows[row.item.id] = row._replace(scores={name: number(value) for name, value in row.scores.items()})


def scored(
    path: Path, rows: Mapping[str, LogRow], wanted: str | None, default: str | None = None
) -> tuple[str, dict[str, LogExample]]:
    """Return the metric that is taken, and every item with its score.

    default: the metric if none is requested. Raises UsageError and InputError (see `choose`; `log-score`).
    """
    listed = {name: None for row in rows.values() for name in row.scores}
    numeric = {name: None for row in rows.values() for name, value in row.scores.items() if value is not None}
    if wanted is None and default in numeric:
        wanted = default
    metric = choose(path, "metric", numeric, wanted, sorted(listed.keys() - numeric.keys()))
    return metric, {key: replace(row.item, score=_score(row, metric)) for key, row in rows.items()}


def _score(row: LogRow, metric: str) -> float:
    value: float | None = row.scores.get(metric)
    if value is not None and (value == 0 or SMALLEST <= abs(value) <= LARGEST):
        return value
    problem = "no number" if value is None else f"{value}, which is no score,"
    raise InputError(
        f"{row.place}: {problem} under {metric!r}, where other examples have one",
        code="log-score",
        hint="evaluate that example again, or leave it out of both logs",
    )


def head(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text[: 4 * EXCERPT].split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"


def tail(text: str) -> str:
    """The end of a text on one line."""
    line = " ".join(text[-4 * EXCERPT :].split())
    return sys.intern(line if len(line) <= EXCERPT else f"…{line[1 - EXCERPT :]}")


def spelling(text: str) -> str | None:
    """Return the digest of a text without case, space and punctuation; None if there is none."""
    return digest(spelling_key(text)) if text.strip() else None


def group_of(place: str, values: Mapping[str, Any], column: str | None) -> str | None:
    """Return the value in the column of groups; None without one. Raises InputError (`log-group`)."""
    if column is None:
        return None
    value = values.get(column)
    if isinstance(value, str | int) and value != "":
        return str(value)
    raise InputError(
        f"{place}: no group in `{column}`",
        code="log-group",
        hint=did_you_mean(column, values, f"the columns are {_names(list(values))}"),
    )


def digest(value: Any) -> str:
    """The digest of a part of a log; equal values have equal ones, which are in memory once for both logs."""
    return sys.intern(sha256_text(json.dumps(value, sort_keys=True)))
