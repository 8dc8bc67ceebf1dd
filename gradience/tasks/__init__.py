"""Tasks: examples, which of them play which role, and what counts as right. One file each.

`load` finds a task by the name that a config gives it, and checks its options before anything is read.
"""

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from pathlib import Path
from typing import Any

from pydantic import ValidationError, validate_call

from gradience.errors import InputError, did_you_mean
from gradience.files.rows import is_on_hub
from gradience.reports.bench_plan import Role, TaskCode
from gradience.tasks import harness, user_code
from gradience.tasks.base import ChatTask, LikelihoodScoring, Scoring, Task
from gradience.words import listed

Load = Callable[..., Task | ChatTask]

PROFILES = (
    "arithmetic",
    "chat",
    "classification",
    "glue",
    "gsm8k",
    "jsonl",
    "reviews",
    "text",
)
"""The tasks included in Gradience, each in the file of its name. A user's task is named by its path."""

GUARDS: Mapping[str, Mapping[str, Any]] = {"arithmetic": {"scorer": "nll"}, "text": {}}
"""Tasks that are built-in guards, and their options as a guard: likelihoods."""


def load(
    profile: str,
    options: Mapping[str, Any],
    *,
    folder: Path | None = None,
    needed: Sequence[Role] = ("train", "confirm"),
) -> Task | ChatTask:
    """Load the task `profile` with `options`.

    profile: one of PROFILES; or a user's task, given as `path/to/file.py` with a function `load`. A user's code
    runs only if the environment allows it (`user_code.allowing`).
    options: keyword arguments of the task's function, with the types in its annotations.
    folder: base folder for the path of a user's file and for relative paths among the options; by default the
    working directory.
    needed: roles that must have examples.
    Raises InputError (`task-unknown`, `task-file`, `code-refused`, `task-option`; `task-contract` if a user's
    function returns something else; `task-empty` if one of `needed` has no examples), and the errors of the
    task itself.
    """
    function = find(profile, folder, training="train" in needed)
    given = _checked(profile, function, options)
    task = function(**{name: _from(folder, value) for name, value in given.items()})
    if not isinstance(task, Task | ChatTask):
        raise InputError(
            f"{profile} returned {type(task).__name__}, not a task",
            code="task-contract",
            hint="return a ClassificationTask or a GenerationTask: see docs/tasks.md",
        )
    for role in needed:
        if not task.examples.of(role):
            counts = ", ".join(f"{count} {name}" for name, count in task.examples.counts.items())
            files = [text.partition(" sha256:")[0] for text in task.source.values() if " sha256:" in text]
            raise InputError(
                f"{profile}: no {role} examples{f' in {listed(files, 4)}' if files else ''} ({counts})",
                code="task-empty",
                hint="add data: docs/tasks.md explains how examples are split into train, dev and confirm",
            )
    return replace(task, code=code_of(profile, folder))


def scoring_of(profile: str, options: Mapping[str, Any], *, folder: Path | None = None) -> Scoring:
    """Return what counts as right in the task `profile` with `options`; folder: as for `load`.

    A task that comes with Gradience says it without its examples. A user's has it in `scoring(...)`, or is loaded as a
    whole. Raises what `load` raises.
    """
    function = find(profile, folder)
    module = sys.modules.get(getattr(function, "__module__", ""))
    scoring_function = getattr(module, "scoring", None) if getattr(module, "load", None) is function else None
    if not callable(scoring_function):
        task = load(profile, options, folder=folder)
        likelihoods = isinstance(task, ChatTask) and task.likelihoods
        return LikelihoodScoring(scoring_version=task.scoring_version) if likelihoods else task
    rules = scoring_function(**_checked(profile, function, options))
    if not isinstance(rules, Scoring):
        raise InputError(
            f"{profile}: `scoring` returned {type(rules).__name__}",
            code="task-contract",
            hint="return a LabelScoring or an AnswerScoring: see docs/tasks.md",
        )
    return rules


def find(profile: str, folder: Path | None = None, *, training: bool = True) -> Load:
    """Return the function that makes the task `profile`, the path of a user's file seen from `folder`.

    training: whether a task of lm-eval makes its train examples as well.
    Raises InputError (`task-unknown`, `task-file`, `code-refused`, `task-contract`).
    """
    code, run = _source(profile, folder, training=training)
    if code is not None:
        user_code.require_permission(profile, code)
    function = run()
    if not callable(function):
        raise InputError(
            f"{profile} has no function `{user_code.FUNCTION}`",
            code="task-contract",
            hint=f"define `{user_code.FUNCTION}(...)` that returns the task: see docs/tasks.md",
        )
    return function  # type: ignore[no-any-return]


def code_of(profile: str, folder: Path | None = None) -> TaskCode | None:
    """Return what code a user's task would run, hashed but not run; None for one of PROFILES. folder: as for `find`.

    Raises InputError (`task-unknown`, `task-file`).
    """
    return _source(profile, folder)[0]


def _source(
    profile: str, folder: Path | None, *, training: bool = True
) -> tuple[TaskCode | None, Callable[[], Any]]:
    """The user's code behind `profile`, and what runs or imports it to get at its function."""
    if profile in PROFILES:
        return None, lambda: importlib.import_module(f"{__name__}.{profile}").load
    if user_code.is_file(profile):
        path = _from(folder, Path(profile))
        code, content = user_code.file_code(profile, path)
        return code, partial(user_code.run_file, path, content)
    if profile.startswith(harness.PREFIX):
        definition = harness.definition_of(profile, folder)
        return definition.code, lambda: harness.maker(definition, training=training)
    known = f"the tasks are {', '.join(PROFILES)}; or name your own task file (path/to/file.py)"
    raise InputError(
        f"no task is called `{profile}`", code="task-unknown", hint=did_you_mean(profile, PROFILES, known)
    )


def _from(folder: Path | None, value: Any) -> Any:
    """Return a path relative to `folder` as a full path; other values unchanged."""
    if folder is None or not isinstance(value, Path) or is_on_hub(value):
        return value
    return folder / value


def _checked(profile: str, function: Load, options: Mapping[str, Any]) -> Mapping[str, Any]:
    """`options` converted to the types of the function's parameters. The function itself is not called."""
    parameters = inspect.signature(function).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in options:
        if name not in parameters and not any_name:
            raise InputError(
                f"{profile} has no option `{name}`",
                code="task-option",
                hint=did_you_mean(name, parameters, f"its options are {', '.join(parameters) or 'none'}"),
            )

    @wraps(function)
    def arguments(**given: Any) -> Mapping[str, Any]:
        return given

    try:
        return validate_call(arguments)(**options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{profile}: option `{name}`: {first['msg'][0].lower()}{first['msg'][1:]}",
            code="task-option",
            hint=f"the options of {profile} are {', '.join(parameters)}",
        ) from None
