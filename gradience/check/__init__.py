"""Configuration files -> CheckReport: what is wrong, unusual or refused, before anything is trained."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradience.check import rules
from gradience.check.dialects import PEFT, dialects_of, read_settings
from gradience.check.files import (
    CONFIG,
    adapter_config_in,
    configurations_at,
    read_base,
    read_mapping,
    training_config_in,
)
from gradience.check.options import CheckSettings
from gradience.check.rules import Context
from gradience.check.settings import READERS, CheckedSettings, Unreadable, task_of
from gradience.errors import UsageError
from gradience.files.hub import address_of, fetch_folder, with_bars
from gradience.files.shared_names import path_text
from gradience.reports.base.finding import SEVERITIES
from gradience.reports.check import CheckFinding, CheckReport, SettingsRead, SourceFile
from gradience.rules import NotApplicable
from gradience.settings import paths_of, public

__all__ = ["check_config"]


@public(CheckSettings)
def check_config(settings: CheckSettings) -> CheckReport:
    """Read the files and return what is wrong in them. At least one file or folder is needed, or a setting.

    >>> check_config(r=16, alpha=16, lr=2e-4).settings.scale
    1.0

    The keywords are the flags of `gradience check`:

    Raises UsageError (nothing-to-check, unknown-task, bad-setting), InputError (see `gradience.check.files`), and
    NetworkError and MissingExtra for a name on the hub.
    """
    task = None if settings.task is None else task_of(settings.task)
    paths = [path for config in paths_of(settings.configs) for path in configurations_at(config)]
    shown: dict[Path, str] = {}
    if settings.peft_dir is not None:
        paths.append(_adapter_config(settings.peft_dir, shown))
    if settings.training_dir is not None:
        paths.append(training_config_in(Path(settings.training_dir)))
    given, files, training_dialect = _typed(settings.lr, settings.r, settings.alpha), [], PEFT
    if not paths and not given.where:
        raise UsageError(
            "nothing to check",
            code="nothing-to-check",
            hint="give folders or files: gradience check ./my_adapter config.yaml",
        )
    for path in dict.fromkeys(paths):
        values = read_mapping(path)
        for dialect in dialects_of(values, path):
            files.append(SourceFile(path=shown.get(path) or path_text(path), dialect=dialect.name))
            training_dialect = dialect if training_dialect is PEFT else training_dialect
            given = given.filled_from(read_settings(values, dialect, path))
    base = None if settings.base_config is None else read_base(Path(settings.base_config))
    context = Context(given.completed(), task, base, training_dialect)
    return _report(context, files)


def _adapter_config(folder: str | os.PathLike[str], shown: dict[Path, str]) -> Path:
    """Return the configuration in a folder. From the hub, only this file is fetched, and `shown` gets its hub name."""
    address = address_of(folder)
    if address is None:
        return adapter_config_in(Path(folder))
    with with_bars(False):  # for a file of a few kB
        path = adapter_config_in(fetch_folder(address, (CONFIG,))[0])
    shown[path] = f"{address}/{path.name}"
    return path


def _typed(lr: float | None, r: int | None, alpha: float | None) -> CheckedSettings:
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
    return CheckedSettings(**typed, where=dict.fromkeys(typed, "as given"))


def _report(context: Context, files: list[SourceFile]) -> CheckReport:
    """Return the report of all rules, errors first."""
    from gradience import __version__

    findings: list[CheckFinding] = []
    passed: list[str] = []
    not_applicable: list[str] = []
    settings = context.settings
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
                where=settings.where.get(problem.field),
                source=rule.source,
                **asdict(problem) | {"severity": problem.severity or rule.severity},
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
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        passed=tuple(passed),
        not_applicable=tuple(not_applicable),
    )
