"""Configuration files -> CheckReport: errors, unusual and unsupported settings, before training."""

from dataclasses import asdict
from pathlib import Path

from gradience.check import rules
from gradience.check.dialects import PEFT, CheckedSettings, dialects_of, read_settings
from gradience.check.files import adapter_config_in, configurations_at, read_mapping, training_config_in
from gradience.check.rules import Context
from gradience.check.settings import CheckSettings, task_of
from gradience.errors import UsageError
from gradience.files.shared_names import path_text
from gradience.reports.base.finding import SEVERITIES
from gradience.reports.check import CheckFinding, CheckReport, SettingsRead, SourceFile
from gradience.rules import NotApplicable
from gradience.settings import paths_of, public

__all__ = ["check_config"]


@public(CheckSettings)
def check_config(settings: CheckSettings) -> CheckReport:
    """Check training configurations, and return the findings. Needs at least one file, folder or setting.

    >>> check_config(r=16, alpha=16, lr=2e-4).settings.scale
    1.0

    Keywords, named like the flags of `gradience check`:

    Raises UsageError (nothing-to-check, unknown-task) and InputError (see `gradience.check.files`).
    """
    task = None if settings.task is None else task_of(settings.task)
    paths = [path for config in paths_of(settings.configs) for path in configurations_at(config)]
    if settings.peft_dir is not None:
        paths.append(adapter_config_in(Path(settings.peft_dir)))
    if settings.training_dir is not None:
        paths.append(training_config_in(Path(settings.training_dir)))
    typed = {"learning_rate": settings.lr, "r": settings.r, "alpha": settings.alpha}
    typed = {name: value for name, value in typed.items() if value is not None}
    if not paths and not typed:
        raise UsageError(
            "nothing to check",
            code="nothing-to-check",
            hint="give folders or files: gradience check ./my_adapter config.yaml",
        )
    given = CheckedSettings.model_validate(typed | {"where": dict.fromkeys(typed, "as given")})
    files, training_dialect = [], PEFT
    for path in dict.fromkeys(paths):
        values = read_mapping(path)
        for dialect in dialects_of(values, path):
            files.append(SourceFile(path=path_text(path), dialect=dialect.name))
            training_dialect = dialect if training_dialect is PEFT else training_dialect
            given = given.filled_from(read_settings(values, dialect, path))
    return _report(Context(given.completed(), task, training_dialect), files)


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
