"""Contents of a log as a reader returns them: task, settings, and a score for every example."""

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

from gradience.digests import sha256_text
from gradience.errors import InputError, UsageError, did_you_mean
from gradience.files.strict_json import parse
from gradience.reading import MAX_DATA_BYTES, open_stream
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

    @classmethod
    def of(
        cls, key: str, *, document: Any = None, prompt: Any = None, shown: str = "", output: str = "",
        spelled: str = "", group: str | None = None,
    ) -> Self:  # fmt: skip
        """Return an example without a score. document, prompt: JSON values; None if the log lacks them.

        shown: text whose end is the excerpt. spelled: text whose spellings form a group.
        """
        document, prompt = (None if value is None else digest(value) for value in (document, prompt))
        spelling = digest(spelling_key(spelled)) if spelled.strip() else None
        return cls(key, document, prompt, tail(shown), head(output), spelling=spelling, group=group)


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


class LogFormat(Protocol):
    """A format of logs: a module of this package."""

    NAME: str

    def fits(self, path: Path, first: Mapping[str, Any], /) -> bool:
        """Return True if a file looks like this format, by its name and its first JSON line."""

    def read(self, path: Path, wanted: Wanted, /) -> Log:
        """Read the file. Raises InputError and UsageError."""


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


class LogRows:
    """The examples of a log by their ids, as a reader finds them: before the metric is chosen."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, LogExample, dict[str, float | None]]] = {}

    def add(self, place: str, item: LogExample, scores: Mapping[str, Any]) -> None:
        """Add an example with the value of each metric.

        Raises InputError: `log-duplicate` for an id that is there, `too-large`.
        """
        if item.id in self._rows:
            raise InputError(
                f"{place}: the id {item.id[:100]!r} occurs twice",
                code="log-duplicate",
                hint="give every example its own id, and repeated runs their own logs",
            )
        if len(self._rows) >= MAX_ITEMS:
            raise InputError(
                f"{place}: more than {MAX_ITEMS:,} examples",
                code="too-large",
                hint="split the logs by task, or take the same random sample of both",
            )
        self._rows[item.id] = place, item, {name: number(value) for name, value in scores.items()}

    def scored(
        self, path: Path, wanted: str | None, default: str | None = None
    ) -> tuple[str, dict[str, LogExample]]:
        """Return the metric that is taken, and every item with its score.

        default: the metric if none is requested. Raises UsageError and InputError (see `choose`; `log-score`).
        """
        metrics: dict[str, bool] = {}  # name -> whether an example has a number
        for _, _, scores in self._rows.values():
            for name, value in scores.items():
                metrics[name] = metrics.get(name, False) or value is not None
        numeric = [name for name, is_number in metrics.items() if is_number]
        wanted = default if wanted is None and default in numeric else wanted
        metric = choose(path, "metric", numeric, wanted, sorted(metrics.keys() - numeric))
        items = {}
        for key, (place, item, scores) in self._rows.items():
            score = scores.get(metric)
            if score is None or not (score == 0 or SMALLEST <= abs(score) <= LARGEST):
                problem = "no number" if score is None else f"{score}, which is no score,"
                raise InputError(
                    f"{place}: {problem} under {metric!r}, where other examples have one",
                    code="log-score",
                    hint="evaluate that example again, or leave it out of both logs",
                )
            items[key] = replace(item, score=score)
        return metric, items


def head(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text[: 4 * EXCERPT].split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1]}…"


def tail(text: str) -> str:
    """The end of a text on one line."""
    line = " ".join(text[-4 * EXCERPT :].split())
    return sys.intern(line if len(line) <= EXCERPT else f"…{line[1 - EXCERPT :]}")


def id_of(place: str, value: object, problem: str, hint: str) -> str:
    """Return the id of an example. problem: what is wrong without one. Raises InputError (`log-row`)."""
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{place}: {problem}", code="log-row", hint=hint)
    return str(value)


def group_of(place: str, values: Mapping[str, Any], column: str | None) -> str | None:
    """Return the value in the column of groups; None without one. Raises InputError (`log-group`)."""
    if column is None:
        return None
    value = values.get(column)
    if isinstance(value, str | int) and value != "":
        return str(value)
    hint = did_you_mean(column, values, f"the columns are {_names(list(values))}")
    raise InputError(f"{place}: no group in `{column}`", code="log-group", hint=hint)


def digest(value: Any) -> str:
    """The digest of a part of a log; equal values have equal ones, which are in memory once for both logs."""
    return sys.intern(sha256_text(json.dumps(value, sort_keys=True)))


# ---------------------------------------------------------------- JSON: bounded objects, no key twice; NaN is accepted

MAX_LINE = 64 * 2**20
"""Bytes of one example: a prompt of 100,000 tokens has about 0.5 MB."""


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every line of a file as its place (`a.jsonl: line 3`) and its object; empty lines are left out.

    Raises InputError (`log-row`, and what `open_stream` raises).
    """
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        line = 0
        while text := file.readline(MAX_LINE + 1):
            line += 1
            if len(text) > MAX_LINE:
                raise InputError(
                    f"{path}: line {line}: longer than {MAX_LINE:,} bytes",
                    code="log-row",
                    hint="write one example per line",
                )
            if text.strip():
                yield f"{path}: line {line}", json_object(text, f"{path}: line {line}")


def json_object(text: bytes, place: str) -> dict[str, Any]:
    """The object that a text of JSON is. Raises InputError (`log-row`)."""
    value, problem = None, "not a JSON object"
    try:
        value = parse(text.decode("utf-8"), constants=True)
    except UnicodeDecodeError as error:
        problem = f"not UTF-8 (byte {error.start})"
    except ValueError as error:
        problem = getattr(error, "msg", str(error))[:200]
    if isinstance(value, dict):
        return value
    hint = "copy the log again, or rerun the tool: a truncated log is not compared"
    raise InputError(f"{place}: {problem}", code="log-row", hint=hint)


def within(value: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the object under a key; an empty object if there is none."""
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def objects_in(value: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in the list under a key; an empty list if there is none."""
    inner = value.get(key)
    return [item for item in inner if isinstance(item, dict)] if isinstance(inner, list) else []


def canonical(value: object) -> str:
    """Return a JSON value as text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def text_or_none(value: object) -> str | None:
    """Return a string unchanged; None for anything else."""
    return value if isinstance(value, str) else None
