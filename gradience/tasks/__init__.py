"""Tasks: what is asked, what counts as right, and which examples play which role. One file each.

`load` finds a task by the name that a config gives it, and checks its options before anything is read.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import wraps
from importlib.metadata import EntryPoint
from typing import Any

from pydantic import ValidationError, validate_call

from gradience.artifacts.bench_plan import TaskCode
from gradience.errors import InputError
from gradience.tasks import own
from gradience.tasks.base import ClassificationTask, GenerationTask, Task

Load = Callable[..., Task]

PROFILES = ("arithmetic", "glue", "gsm8k", "reviews", "text_classification")
"""The tasks that come with Gradience, each in the file of its name; a user's own is named by where it stands."""

OWN = (
    "one of your own is a file, `path/to/file.py`, or an installed entry point of the group `gradience.tasks`"
)

ALIASES = {"gsm8k_causal_lm": "gsm8k", "seqcls_glue": "glue"}
"""Names of the public predecessor's configs."""


def load(profile: str, options: Mapping[str, Any]) -> Task:
    """The task `profile` with `options`.

    profile: one of PROFILES; or a task of one's own, `path/to/file.py` with a function `load`, or the name of an entry
    point of the group `gradience.tasks`. Code of one's own runs only when the environment allows it (`own.allowing`).
    options: keyword arguments of the task's function, with the types that its annotations say.
    Raises InputError (`task-unknown`, `task-file`, `code-refused`, `task-option`; `task-contract` when a user's
    function returns something else; `task-empty` when there is nothing to train on or to confirm with), and what the
    task itself raises.
    """
    function = find(profile)
    task = function(**_checked(profile, function, options))
    if not isinstance(task, ClassificationTask | GenerationTask):
        raise InputError(
            f"{profile} returned {type(task).__name__}, not a task",
            code="task-contract",
            hint="return a ClassificationTask or a GenerationTask: see docs/tasks.md",
        )
    for role in ("train", "confirm"):
        if not task.examples.of(role):
            counts = ", ".join(f"{count} {name}" for name, count in task.examples.counts.items())
            raise InputError(
                f"{profile}: no example has the role {role} ({counts})",
                code="task-empty",
                hint="give it more data: see docs/tasks.md for how examples get their roles",
            )
    return replace(task, code=code_of(profile))


def find(profile: str) -> Load:
    """The function that makes the task `profile`.

    Raises InputError (`task-unknown`, `task-file`, `code-refused`, `task-contract`).
    """
    known = ALIASES.get(profile, profile)
    if known in PROFILES:
        loaded: Load = importlib.import_module(f"{__name__}.{known}").load
        return loaded
    if own.is_file(profile):
        code, content = own.file_code(profile)
        own.require_permission(profile, code)
        return own.run_file(profile, content)
    entry = _entry(profile)
    own.require_permission(profile, own.entry_code(entry))
    return own.run_entry(profile, entry)


def code_of(profile: str) -> TaskCode | None:
    """What code a task of one's own would run, found and hashed but not run; None for one of PROFILES.

    Raises InputError (`task-unknown`, `task-file`).
    """
    if ALIASES.get(profile, profile) in PROFILES:
        return None
    return own.file_code(profile)[0] if own.is_file(profile) else own.entry_code(_entry(profile))


def _entry(profile: str) -> EntryPoint:
    entries = own.installed()
    if profile in entries:
        return entries[profile]
    place, colon, _ = profile.rpartition(":")
    if colon:  # `module:function`, as earlier configs wrote it
        file = place.endswith(".py")
        hint = f"write `profile: {place}`; its function is `load`" if file else OWN
    else:
        hint = (
            _nearest(profile, [*PROFILES, *ALIASES, *entries]) + f"the tasks are {', '.join(PROFILES)}; {OWN}"
        )
    raise InputError(f"there is no task `{profile}`", code="task-unknown", hint=hint)


def _checked(profile: str, function: Load, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """`options` converted to the types of the function's parameters. The function itself is not called."""
    parameters = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if name not in parameters and not any_name:
            raise InputError(
                f"{profile} has no option `{name}`",
                code="task-option",
                hint=_nearest(name, parameters) + f"its options are {', '.join(parameters) or 'none'}",
            )

    @wraps(function)
    def arguments(**given: Any) -> Mapping[str, Any]:
        return given

    try:
        return validate_call(arguments)(**options)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = ".".join(map(str, found["loc"]))
        raise InputError(
            f"{profile}: option `{name}`: {found['msg'][0].lower()}{found['msg'][1:]}",
            code="task-option",
            hint=f"the options of {profile} are {', '.join(parameters)}",
        ) from None


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`? " if near else ""
