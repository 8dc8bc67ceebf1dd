"""Two logs -> pairs of scores. Logs with different examples or settings are refused, and both values are named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from gradience.errors import InputError, UsageError
from gradience.evidence.base import Log, LogExample
from gradience.words import counted, listed, printable


class ExamplePair(NamedTuple):
    """One example in both logs."""

    a: LogExample
    b: LogExample


def paired(a: Log, b: Log) -> tuple[ExamplePair, ...]:
    """Return the pairs in A's order.

    Raises InputError: `logs-differ` if task, metric, settings, documents or prompts are others, `logs-missing` if
    an example is in only one log, `log-no-pairs`.
    """
    for label, in_a, in_b in _compared(a, b):
        if in_a != in_b:
            raise InputError(
                f"{a.path} and {b.path}: different {label}: {_shown(in_a)} and {_shown(in_b)}",
                code="logs-differ",
                hint="evaluate both with the same tool, task and settings",
            )
    _check_ids(a, b)
    pairs = tuple(ExamplePair(item, b.items[key]) for key, item in a.items.items())
    if len(pairs) < 2:
        raise InputError(
            f"{a.path} and {b.path}: {len(pairs)} example in them: an interval needs two or more",
            code="log-no-pairs",
            hint="evaluate more examples; `gradience evidence` says how many a claim needs",
        )
    _check_texts(a, b, "document", ((pair.a.id, pair.a.document, pair.b.document) for pair in pairs))
    _check_texts(a, b, "prompt", ((pair.a.id, pair.a.prompt, pair.b.prompt) for pair in pairs))
    return pairs


def lower_is_better(a: Log, b: Log, chosen: bool | None) -> bool:
    """Return True if lower is better, from the logs or the option. Raises UsageError (`log-direction`)."""
    for log in (a, b):
        if log.lower_is_better is None:
            continue
        if chosen is not None and chosen != log.lower_is_better:
            better = "lower" if log.lower_is_better else "higher"
            raise UsageError(
                f"{log.path}: {better} is better, says the log of its {log.metric}",
                code="log-direction",
                hint="leave --lower-is-better out" if not log.lower_is_better else "add --lower-is-better",
            )
        chosen = log.lower_is_better
    return bool(chosen)


def unchecked(a: Log, b: Log, pairs: Iterable[ExamplePair]) -> list[str]:
    """Return notes on settings that could not be compared because a log lacks them."""
    notes = [f"{name}: {note}" for name, log in (("A", a), ("B", b)) for note in log.notes]
    pair = next(iter(pairs))
    if None in (pair.a.prompt, pair.b.prompt) and None in (pair.a.document, pair.b.document):
        notes.append("the logs have no prompts: examples are matched by id only")
    elif None in (pair.a.prompt, pair.b.prompt):
        notes.append("the logs have no prompts: equal instructions are not checked")
    alone = a.settings.keys() ^ b.settings.keys()
    if alone:
        notes.append(f"found in only one log and not compared: {', '.join(sorted(alone))}")
    return notes


def _compared(a: Log, b: Log) -> Iterator[tuple[str, str, str]]:
    yield "format", a.format, b.format
    if a.task is not None and b.task is not None:
        yield "task", a.task, b.task
    yield "metric", a.metric, b.metric
    yield "filter", a.filter or "none", b.filter or "none"
    for name in a.settings.keys() & b.settings.keys():
        yield name, a.settings[name], b.settings[name]


def _shown(value: str) -> str:
    return printable(value if len(value) <= 300 else f"{value[:299]}…")


def _check_ids(a: Log, b: Log) -> None:
    only_a = [key for key in a.items if key not in b.items]
    only_b = [key for key in b.items if key not in a.items]
    if only_a or only_b:
        raise InputError(
            f"{counted(len(only_a), 'example')} only in {a.path}{_first(only_a)}, {len(only_b)} only in"
            f" {b.path}{_first(only_b)}; {len(a.items) - len(only_a)} in both",
            code="logs-missing",
            hint="evaluate both on the same examples, to the end: those that are missing may be the hard ones",
        )


def _first(ids: list[str]) -> str:
    return f" ({listed([printable(key[:60]) for key in ids], 3)})" if ids else ""


def _check_texts(a: Log, b: Log, kind: str, rows: Iterable[tuple[str, str | None, str | None]]) -> None:
    known = [
        (key, text_a == text_b) for key, text_a, text_b in rows if text_a is not None and text_b is not None
    ]
    differ = [key for key, same in known if not same]
    if differ:
        raise InputError(
            f"{a.path} and {b.path}: {len(differ)} of {len(known)} examples have another {kind} in B{_first(differ)}",
            code="logs-differ",
            hint="compare logs of one version of the task, with the same template, few-shot examples and seed"
            if kind == "prompt"
            else "compare logs of one version of the task: the same ids stand for other examples here",
        )
