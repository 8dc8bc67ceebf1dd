"""Tasks: what is asked, what counts as right, and which examples play which role. One file each.

`load` finds a task by the name that a config gives it, and checks its options before anything is read.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ValidationError, validate_call

from gradience.bench.tasks.base import ClassificationTask, GenerationTask, Task
from gradience.errors import InputError, UsageError

Load = Callable[..., Task]

PROFILES = ("arithmetic", "glue", "gsm8k", "reviews", "text_classification")
"""The tasks that come with Gradience, each in the file of its name; a user's own is named by where it stands."""

ALIASES = {"gsm8k_causal_lm": "gsm8k", "seqcls_glue": "glue"}
"""Names of the public predecessor's configs."""


def load(profile: str, options: Mapping[str, Any]) -> Task:
    """The task `profile` with `options`.

    profile: one of PROFILES, or `package.module:load`, or `path/to/file.py:load`: then that code is imported and run.
    options: keyword arguments of the task's function, with the types that its annotations say.
    Raises UsageError (`task-unknown`, `task-import`, `task-option`), InputError (`task-contract`) when a user's
    function returns something else, InputError (`task-empty`) when there is nothing to train on or to confirm with,
    and what the task itself raises.
    """
    function = find(profile)
    task = function(**_checked(profile, function, options))
    if not isinstance(task, ClassificationTask | GenerationTask):
        raise InputError(
            f"{profile} returned a {type(task).__name__}, which is no task",
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
    return task


def find(profile: str) -> Load:
    """The function that makes the task `profile`. Raises UsageError (`task-unknown`, `task-import`)."""
    place, colon, name = profile.rpartition(":")
    if colon:
        return _own(place, name)
    known = ALIASES.get(profile, profile)
    if known not in PROFILES:
        raise UsageError(
            f"there is no task `{profile}`",
            code="task-unknown",
            hint=_nearest(profile, [*PROFILES, *ALIASES])
            + f"the tasks are {', '.join(PROFILES)}; one of your own is `package.module:load` or"
            " `path/to/file.py:load`",
        )
    return _function(importlib.import_module(f"{__name__}.{known}"), "load")


def _checked(profile: str, function: Load, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """`options` converted to the types of the function's parameters. The function itself is not called."""
    parameters = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if name not in parameters and not any_name:
            raise UsageError(
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
        raise UsageError(
            f"{profile}: option `{name}`: {found['msg'][0].lower()}{found['msg'][1:]}",
            code="task-option",
            hint=f"the options of {profile} are {', '.join(parameters)}",
        ) from None


def _own(place: str, name: str) -> Load:
    if place.endswith(".py"):
        return _function(_module_of(Path(place)), name)
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(
            f"`{place}` is neither a module nor a file that ends in .py",
            code="task-import",
            hint="write `package.module:load` or `path/to/file.py:load`",
        )
    try:
        module = importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise  # the module is there, and something that it needs is not
        raise UsageError(
            f"there is no module `{place}`",
            code="task-import",
            hint="install it, put its folder on PYTHONPATH, or name the file: `path/to/file.py:load`",
        ) from None
    return _function(module, name)


def _module_of(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file", code="task-import", hint="check the path")
    # A name of its own in sys.modules: dataclasses and the annotations of the options are looked up there.
    name = f"gradience_task_{sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a path that ends in .py always has a loader"
    assert spec.loader is not None, "and the loader is there"
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _function(module: ModuleType, name: str) -> Load:
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(
            f"{module.__file__ or module.__name__} has no function `{name}`",
            code="task-import",
            hint=_nearest(name, [key for key, value in vars(module).items() if inspect.isfunction(value)])
            + "a task's function is usually called `load`",
        )
    loaded: Load = function
    return loaded


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`? " if near else ""
