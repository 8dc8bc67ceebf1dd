"""lm-eval itself, imported when a task of it is made; its templates run in a sandbox.

A template is Python in all but name: in an ordinary environment of Jinja it reaches any module. lm-eval renders them in
one such environment for the whole process, which is replaced by a sandboxed one that renders the same text.
"""

from __future__ import annotations

import logging
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import regex

from gradience.adapters.patterns import has_many_repeats
from gradience.errors import InputError, require
from gradience.models.local_only import would_fetch
from gradience.tasks.harness.definition import EXTRA, Definition
from gradience.words import first_line

BUILDERS = ("arrow", "csv", "json", "pandas", "parquet", "text")
"""`dataset_path`s that read files named in `dataset_kwargs`, here or at an address."""
PATTERNS = ("lm_eval.filters.extraction", "lm_eval.filters.transformation", "lm_eval.api.metrics")
"""Modules that match outputs with the patterns of a task."""
SEED = 1234
"""Seed for the few-shot examples, the default of lm-eval's command line."""
SECONDS = 1.0
"""For one search with a pattern of a task."""

_BRACE = re.compile(r"(?<!\\)((?:\\\\)*)\{(?!\d+\}|\d*,\d*\})")
"""A brace that begins no repeat: `regex` may take it for fuzzy matching."""


def harness(module: str) -> Any:
    """Import a module of lm-eval, quiet and with sandboxed templates. Raises MissingExtra."""
    utils: Any = require("lm_eval.utils", extra=EXTRA)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    if not isinstance(utils.env, SandboxedEnvironment):
        sandbox = SandboxedEnvironment(
            loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
        )
        sandbox.filters.update(utils.env.filters)
        sandbox.filters["regex_replace"] = _replace
        utils.env = sandbox
        for name in PATTERNS:
            matching: Any = require(name, extra=EXTRA)
            matching.re = BOUNDED
    return require(module, extra=EXTRA)


def load(definition: Definition, num_fewshot: int | None) -> Any:
    """Return lm-eval's object of the task, its few shots seeded as on lm-eval's command line.

    Raises InputError: `task-harness` for what lm-eval cannot make a task of, `task-dataset` for data that cannot be
    read; NetworkError (`task-dataset`); UsageError (`task-option`).
    """
    from gradience.errors import NetworkError, UsageError

    manager = harness("lm_eval.tasks").TaskManager(include_defaults=False)
    datasets: Any = require("datasets", extra="hf")
    from huggingface_hub.errors import HfHubHTTPError

    values = definition.values
    if values is not None:
        _check(definition, str(values.get("dataset_path") or ""))
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        loaded = manager.load(str(definition.path) if values is None else {**values})
    except (ConnectionError, HfHubHTTPError, datasets.exceptions.DatasetNotFoundError) as error:
        raise NetworkError(
            f"{definition.profile}: {first_line(error)}",
            code="task-dataset",
            hint="check the network and `hf auth login`; local files: `dataset_path: json` with `data_files`",
        ) from None
    except (datasets.exceptions.DatasetsError, FileNotFoundError) as error:
        raise InputError(
            f"{definition.profile}: its data cannot be read: {first_line(error)}",
            code="task-dataset",
            hint="check `dataset_path` and `data_files`; relative paths start at the working directory",
        ) from None
    except unusable_errors() as error:
        raise unusable(definition.profile, error) from None
    finally:
        if bars:
            datasets.enable_progress_bars()
    task = next(iter(loaded["tasks"].values()))
    if num_fewshot is not None and num_fewshot != task.get_config("num_fewshot"):
        if task.get_config("num_fewshot") == 0:
            raise UsageError(
                f"{definition.profile} fixes `num_fewshot` at 0",
                code="task-option",
                hint="omit the option",
            )
        task.set_config("num_fewshot", num_fewshot)
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(SEED)
    return task


def unusable_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that lm-eval and task templates raise for an unusable task."""
    from jinja2 import TemplateError

    usual = (ValueError, TypeError, LookupError, AttributeError, AssertionError, ImportError)
    return (*usual, ArithmeticError, RecursionError, TimeoutError, TemplateError)


def unusable(profile: str, error: Exception) -> InputError:
    """The error (`task-harness`) for what lm-eval raises."""
    return InputError(
        f"{profile}: lm-eval cannot use this task: {type(error).__name__}: {first_line(error)}",
        code="task-harness",
        hint="correct the YAML; `lm-eval validate --tasks NAME` checks one",
    )


def _check(definition: Definition, data: str) -> None:
    """Before lm-eval sees it: metrics that it does not know would be downloaded as scripts and run."""
    from pathlib import Path

    from gradience.tasks import user_code

    assert definition.values is not None
    known = harness("lm_eval.api.registry").metric_registry
    harness("lm_eval.api.metrics")  # which fills it
    for metric in definition.values.get("metric_list") or ():
        name = metric.get("metric") if isinstance(metric, dict) else None
        if name is not None and name not in known and not user_code.is_allowed():
            raise InputError(
                f"{definition.profile}: the metric {name!r} is not built into lm-eval: it would be loaded as a script",
                code="code-refused",
                hint=f"choose one of lm-eval's; if you trust the script, give --allow-code or set {user_code.ALLOW}=1",
            )
    if data not in BUILDERS and not Path(data).is_dir():
        would_fetch(f"{data} (from the hub)")


def _replace(text: str, pattern: str, by: str, count: int = 0) -> str:
    """`re.sub`, within a time. Raises as `_compiled` does, and TimeoutError."""
    return str(_compiled(pattern).sub(by, text, count=count, timeout=SECONDS))


def _find(pattern: str, text: str) -> list[Any]:
    return list(_compiled(pattern).findall(text, timeout=SECONDS))


def _compiled(pattern: str) -> Any:
    """The pattern for the package `regex`, which has time limits, as `re` reads it. Raises ValueError."""
    if has_many_repeats(pattern):
        raise ValueError(f"the pattern {pattern!r:.80} has too many repeats")
    if "[:" in pattern or r"\N" in pattern:
        raise ValueError(
            f"the pattern {pattern!r:.80} has `[:` or `\\N`, which two libraries read differently"
        )
    try:
        re.compile(pattern)
        return regex.compile(_BRACE.sub(r"\1\{", pattern))
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r:.80} is not a regular expression: {error}") from None


BOUNDED = SimpleNamespace(
    compile=lambda pattern: SimpleNamespace(findall=partial(_compiled(pattern).findall, timeout=SECONDS)),
    findall=_find,
    sub=lambda pattern, by, text: _replace(text, pattern, by),
    escape=re.escape,
)
"""The parts of `re` that lm-eval modules use, with a time limit, because an untrusted pattern may never
end.
"""
