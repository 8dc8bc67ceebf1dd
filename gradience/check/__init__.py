"""Configuration files -> CheckReport: what is wrong, unusual or refused, before anything is trained."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradience.check import rules
from gradience.check.dialects import PEFT, dialect_of, read_settings
from gradience.check.files import (
    CONFIG,
    adapter_config_in,
    configurations_at,
    read_base,
    read_mapping,
    training_config_in,
)
from gradience.check.rules import Context
from gradience.check.settings import READERS, TASKS, Settings, Unreadable, task_of
from gradience.errors import UsageError
from gradience.files.shared_names import path_text
from gradience.hub.address import address_of
from gradience.hub.client import fetch_folder, with_bars
from gradience.reports.base.finding import SEVERITIES
from gradience.reports.check import CheckFinding, CheckReport, SettingsRead, SourceFile
from gradience.rules import NotApplicable

__all__ = ["TASKS", "check_config"]

PathLike = str | os.PathLike[str]


def check_config(
    *configs: PathLike,
    peft: PathLike | None = None,
    training: PathLike | None = None,
    peft_dir: PathLike | None = None,
    training_dir: PathLike | None = None,
    task: str | None = None,
    lr: float | None = None,
    r: int | None = None,
    alpha: float | None = None,
    base_config: PathLike | None = None,
    completion_tokens: int | None = None,
) -> CheckReport:
    """Read the files and return what is wrong in them. At least one file or folder is needed, or a setting.

    >>> check_config(r=16, alpha=16, lr=2e-4).settings.scale
    1.0

    configs                 files or folders, whatever they hold; what an earlier one says counts
    peft, peft_dir          an adapter configuration, as a file or in its folder, which may be a name on the hub
    training, training_dir  a training configuration; one file may hold both (TRL, Axolotl, ...)
    task                    one of TASKS, or a name that means one, such as `sst2` or `text-generation`
    lr, r, alpha            settings to judge instead of those in the files
    base_config             config.json of the base model, or its folder
    completion_tokens       tokens that are trained on, for the rule on capacity

    Raises UsageError (nothing-to-check, unknown-task, bad-setting), InputError (see `gradience.check.files`), and
    NetworkError and MissingExtra for a name on the hub.
    """
    task = task_of(task) if task is not None else None
    paths = [path for config in configs for path in configurations_at(Path(config))]
    shown: dict[Path, str] = {}
    if peft_dir is not None and (address := address_of(peft_dir)) is not None:
        with with_bars(False):  # for a file of a few kB
            paths.append(adapter_config_in(fetch_folder(address, (CONFIG,))[0]))
        shown[paths[-1]] = f"{address}/{CONFIG}"
    elif peft_dir is not None:
        paths.append(adapter_config_in(Path(peft_dir)))
    paths += [Path(path) for path in (peft, training) if path is not None]
    paths += [training_config_in(Path(training_dir))] if training_dir is not None else []
    settings, files, training_dialect = _typed(lr, r, alpha), [], PEFT
    if not paths and not settings.where:
        raise UsageError(
            "nothing to check",
            code="nothing-to-check",
            hint="give folders or files: gradience check ./my_adapter config.yaml",
        )
    for path in dict.fromkeys(paths):
        values = read_mapping(path)
        dialect = dialect_of(values, path)
        files.append(SourceFile(path=shown.get(path) or path_text(path), dialect=dialect.name))
        training_dialect = dialect if training_dialect is PEFT else training_dialect
        settings = settings.filled_from(read_settings(values, dialect, path))
    base = read_base(Path(base_config)) if base_config is not None else None
    return _report(Context(settings.completed(), task, base, completion_tokens, training_dialect), files)


def _typed(lr: float | None, r: int | None, alpha: float | None) -> Settings:
    """Settings that were given by hand."""
    typed: dict[str, Any] = {}
    for flag, name, value in (("lr", "learning_rate", lr), ("r", "r", r), ("alpha", "alpha", alpha)):
        try:
            typed |= {} if value is None else {name: READERS[name](value)}
        except Unreadable as error:
            raise UsageError(
                f"{flag} is {value!r:.40}, not {error}",
                code="bad-setting",
                hint="give the value that is meant",
            ) from None
    return Settings(**typed, where=dict.fromkeys(typed, "as given"))


def _report(context: Context, files: list[SourceFile]) -> CheckReport:
    """What every rule says, errors first."""
    from gradience import __version__

    findings: list[CheckFinding] = []
    passed: list[str] = []
    not_applicable: list[str] = []
    settings, base = context.settings, context.base
    for rule in rules.RULES:
        try:
            problems = list(rule.look(context))
        except NotApplicable:
            not_applicable.append(rule.code)
            continue
        if not problems:
            passed.append(rule.code)
        findings += [
            CheckFinding(
                code=rule.code,
                severity=rule.severity,
                where=settings.where.get(problem.field),
                source=rule.source,
                **asdict(problem),
            )
            for problem in problems
        ]
    shown = settings.model_dump(include={*SettingsRead.model_fields})
    shown |= {"base_model": settings.base_model and path_text(settings.base_model)}
    return CheckReport(
        gradience_version=__version__,
        task=context.task,
        files=tuple(files),
        settings=SettingsRead(**shown | {"objective": context.objective}),
        lora_params=base.lora_params(settings.r, settings.target_modules) if base and settings.r else None,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        passed=tuple(passed),
        not_applicable=tuple(not_applicable),
    )
