"""Several data sets in one run: their names on the command line, and the settings of the evaluation of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradience import tasks
from gradience.errors import InputError, UsageError, did_you_mean
from gradience.files.rows import HUB, is_on_hub, written
from gradience.reports.base.exact import as_written
from gradience.tasks.user_code import is_file
from gradience.words import listed

if TYPE_CHECKING:
    from gradience.evaluate.settings import EvaluateSettings, ExampleSettings

TASK, TEXT = "task", "text:"
NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,39})=(.+)", re.DOTALL)
TAKEN = frozenset(("adapter", "base", "candidates", "dev", "records"))
"""Names of other folders of a run."""
OWN_EXAMPLES = frozenset(tasks.PROFILES) - {"chat", "classification", "jsonl"}
"""Tasks that need no file."""


@dataclass(frozen=True, slots=True)
class NamedSet:
    """One data set of a run."""

    name: str
    guard: bool
    """True if it guards what the adapter was not trained for."""
    settings: EvaluateSettings
    """Settings of its own evaluation."""


def is_task(source: str) -> bool:
    """Return True if a data set is a task by its name, and not a file.

    >>> is_task("lm_eval:arc_easy"), is_task("rows.jsonl")
    (True, False)
    """
    return source.startswith(tasks.harness.PREFIX) or is_file(source) or source in OWN_EXAMPLES


def data_of(given: Any) -> Any:
    """Return a path, or data sets by name; rows in memory are written to files.

    A text is `FILE`, `TASK`, `text:FILE`, or one of them after `NAME=`. Raises UsageError (`bad-set`).
    """
    if isinstance(given, str) or _are_texts(given):
        named = _by_name([given] if isinstance(given, str) else given)
        (only, *more) = named.items()
        plain = not more and only[0] == TASK and not is_task(only[1]) and not only[1].startswith(TEXT)
        return only[1] if plain else named
    if isinstance(given, Mapping):
        return _checked({str(name): _source(value) for name, value in given.items()})
    return given if given is None or hasattr(given, "__fspath__") else written(given)


def guards_of(given: Any) -> Any:
    """Return guards by name. Raises UsageError (`bad-set`)."""
    if isinstance(given, str) or _are_texts(given):
        return _by_name([given] if isinstance(given, str) else given, guards=True)
    if isinstance(given, Mapping):
        return _checked({str(name): _source(value) for name, value in given.items()})
    return {} if given is None else given


def margins_of(given: Any) -> Any:
    """Return one margin, or margins by the name of a data set; under "" the one without a name.

    A margin is an exact number, or a text such as `2%`, a perplexity that is so much higher.
    """
    if isinstance(given, Mapping):
        return {str(name): _margin(value) for name, value in given.items()}
    if not _are_texts(given):
        return None if given is None else _margin(given)
    margins: dict[str, Any] = {}
    for text in given:
        named = NAMED.fullmatch(text)
        name, value = named.groups() if named else ("", text)
        if name in margins:
            raise ValueError("two margins for one data set")
        margins[name] = _margin(value)
    return margins if any(margins) else margins[""]


def _margin(value: Any) -> Any:
    text = str(value).strip()
    return f"{as_written(text[:-1])}%" if text.endswith("%") else as_written(value)


def _are_texts(given: Any) -> bool:
    return isinstance(given, list | tuple) and bool(given) and all(isinstance(text, str) for text in given)


def _source(value: Any) -> str:
    """Return a data set as a text; rows in memory by the file that they are written to."""
    return str(value) if isinstance(value, str) or hasattr(value, "__fspath__") else str(written(value))


def _by_name(texts: Sequence[str], *, guards: bool = False) -> dict[str, str]:
    """Return the data sets that were typed by name; without a name it is that of the file or the task."""
    sets: dict[str, str] = {}
    unnamed = [text for text in texts if NAMED.fullmatch(text) is None or Path(text).exists()]
    for text in texts:
        name, source = name_of(text), text
        if text not in unnamed:
            name, source = text.split("=", 1)
        elif len(unnamed) == 1 and not guards:
            name = TASK
        if name in sets:
            raise _bad(f"two data sets are called `{name}`", f"name them: {name}2={source}")
        sets[name] = source
    return _checked(sets)


def name_of(source: str) -> str:
    """Return the name of a data set that was given none: `lm_eval:arc_easy` -> `arc_easy`, `a/notes.txt` -> `notes`."""
    path = source.partition("//")[2].partition(":")[0] if source.startswith(HUB) else source
    last = path.replace("\\", "/").rstrip("/").rpartition("/")[2].rpartition(":")[2]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", last.partition(".")[0]).strip("_") or "data"


def _checked(sets: Mapping[str, str]) -> dict[str, str]:
    for name, source in sets.items():
        if NAMED.fullmatch(f"{name}=x") is None or name.casefold() in TAKEN:
            raise _bad(f"`{name}` cannot name a data set", f"give another name: my_{TASK}={source}")
    return dict(sets)


def _bad(problem: str, hint: str) -> UsageError:
    return UsageError(problem, code="bad-set", hint=hint)


# ---------------------------------------------------------------- settings of each


def has_several(settings: ExampleSettings) -> bool:
    """Return True if data sets have names."""
    return bool(settings.guards) or isinstance(settings.data, Mapping)


def sets_of(settings: EvaluateSettings) -> tuple[NamedSet, ...]:
    """Return the data sets of a run with the settings of each, the task before its guards.

    Raises UsageError (`bad-set`, `data-and-task`), InputError (`task-file`) for a file that is missing.
    """
    several = isinstance(settings.data, Mapping)
    if several and settings.task is not None:
        raise UsageError(
            f"--task {settings.task} and several data sets",
            code="data-and-task",
            hint=f"give it as another data set: --data {name_of(settings.task)}={settings.task}",
        )
    data = dict(settings.data) if isinstance(settings.data, Mapping) else {TASK: ""}
    names = [*data, *settings.guards]
    folded = [name.casefold() for name in names]
    twice = next((name for name in names if folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise _bad(f"two data sets are called `{twice}`", f"name the guard: --guard {twice}2=…")
    _refuse_unknown(settings, names)
    sets = []
    for name in names:
        guard = name in settings.guards
        source = settings.guards[name] if guard else data[name]
        mine = _read(source) if source else {"data": settings.data_file, "task": settings.task, "options": {}}
        built_in = tasks.GUARDS.get(source, {}) if guard else {}
        mine["options"] = {
            **built_in,
            **mine["options"],
            **_own(settings.options, name, names, plain=not guard),
        }
        mine |= {
            "columns": _own(settings.columns, name, names, plain=not guard),
            "prompts": None if source else settings.prompts,
            "group": _group(settings.group, name, names, plain=not guard),
            "margin": _own_margin(settings.margin, name, plain=not guard),
        }
        _refuse_missing(mine["data"])
        sets.append(NamedSet(name, guard, replace(settings, guards={}, **mine)))
    return tuple(sets)


def _read(source: str) -> dict[str, Any]:
    """Return the settings of one data set."""
    if source.startswith(TEXT):
        return {"data": Path(source.removeprefix(TEXT)), "task": None, "options": {"scorer": "nll"}}
    task = is_task(source)
    return {"data": None if task else Path(source), "task": source if task else None, "options": {}}


def _own(values: Mapping[str, Any], name: str, names: Sequence[str], *, plain: bool) -> dict[str, Any]:
    """Return the values of one set: those called `NAME.KEY`, and if `plain` those without a name."""
    named = {key.partition(".")[2]: value for key, value in values.items() if key.startswith(f"{name}.")}
    others = tuple(f"{other}." for other in names)
    shared = {key: value for key, value in values.items() if not key.startswith(others)}
    return {**shared, **named} if plain else named


def _group(given: str | None, name: str, names: Iterable[str], *, plain: bool) -> str | None:
    parts = [] if given is None else [text.partition("=") for text in given.split(",")]
    column_of_set = next((column for set_name, _, column in parts if set_name == name and column), None)
    whole = given is not None and not any(set_name in names and column for set_name, _, column in parts)
    return given if column_of_set is None and plain and whole else column_of_set


def _own_margin(given: Any, name: str, *, plain: bool) -> Any:
    if not isinstance(given, Mapping):
        return given if plain else None
    return given.get(name, given.get("") if plain else None)


def _refuse_unknown(settings: ExampleSettings, names: Sequence[str]) -> None:
    margin = settings.margin
    for name in margin if isinstance(margin, Mapping) else ():
        if name and name not in names:
            raise _bad(
                f"--margin {name}=…: no data set is called `{name}`",
                did_you_mean(name, names, f"the data sets are {listed(names, 5)}"),
            )


def _refuse_missing(data: Path | None) -> None:
    if data is not None and not is_on_hub(data) and not data.exists():
        raise InputError(f"{data}: no such file", code="task-file", hint="check the path")


def seen_from(folder: Path, source: str) -> str:
    """Return a data set with its file relative to `folder`."""
    if source.startswith(TEXT):
        return f"{TEXT}{folder / source.removeprefix(TEXT)}"
    return source if is_task(source) or source.startswith(HUB) else str(folder / source)
