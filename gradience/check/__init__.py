"""Configuration files -> CheckReport: errors, unusual and unsupported settings, before training."""

import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from gradience.check import rules
from gradience.check.dialects import PEFT, CheckedSettings, dialects_of, read_settings
from gradience.errors import InputError, UsageError
from gradience.files.shared_names import path_text
from gradience.files.strict_json import LARGEST
from gradience.files.strict_yaml import config_pickle, read_mapping
from gradience.reports.base.report import SEVERITIES
from gradience.reports.check import CheckFinding, CheckReport, SettingsRead, SourceFile
from gradience.rules import NotApplicable
from gradience.settings import Flag, Integer, Number, StrPath, paths_of, public, settings_model, several

__all__ = ["check_config"]

TASKS = ("classification", "generation", "reasoning", "rl")
OTHER_NAMES = {
    "classification": ("seq_cls", "token_cls", "text_classification", "sentiment", "glue", "sst2", "mnli", "imdb"),
    "generation": ("causal_lm", "seq_2_seq_lm", "text_generation", "summarization", "translation"),
    "reasoning": ("gsm8k", "math", "svamp"),
    "rl": ("reinforcement_learning", "grpo", "rloo", "ppo"),
}  # fmt: skip
"""Task -> synonyms, in lower case with underscores; `task_of` normalizes other spellings."""
CONFIG = "adapter_config.json"
TRAINING_NAMES = ("training_args.json", "training_args.yaml", "training_args.yml")
"""File names of the arguments of a Trainer, in search order."""
SHARED_NAMES = ("config.yaml", "config.yml", "train.yaml", "train.yml")
"""Names of training configurations that are also used by other programs."""


@settings_model()
class CheckSettings:
    """Configurations."""

    configs: Annotated[StrPath | Sequence[StrPath], BeforeValidator(several), Flag("CONFIG")] = ()
    """Adapter folder, training folder or configuration file (adapter_config.json, arguments of the Trainer or of TRL as
    JSON or YAML); several are read as one configuration."""
    _: KW_ONLY
    peft_dir: Annotated[StrPath | None, Flag("DIR")] = None
    """Folder with an adapter_config.json."""
    training_dir: Annotated[StrPath | None, Flag("DIR")] = None
    """Folder with a training configuration."""
    task: Annotated[str | None, Flag("NAME", short="--dataset", values=lambda: TASKS)] = None
    """Kind of task: classification, generation, reasoning, rl, or a name such as sst2 or gsm8k."""
    lr: Annotated[Number | None, Field(le=LARGEST), Flag("X")] = None
    """Check this learning rate instead of the file's."""
    r: Annotated[Integer | None, Field(le=LARGEST), Flag("N")] = None
    """Check this rank instead of the file's."""
    alpha: Annotated[Number | None, Field(le=LARGEST), Flag("X")] = None
    """Check this α instead of the file's."""


def task_of(name: str) -> str:
    """Return the task that a name means. Raises UsageError (unknown-task).

    >>> task_of("openai/gsm8k"), task_of("SEQ_CLS"), task_of("text-generation")
    ('reasoning', 'classification', 'generation')
    """
    last = name.rstrip("/").rsplit("/", maxsplit=1)[-1]
    word = re.sub(r"[\s-]+", "_", last.strip().lower())
    task = next((task for task in TASKS if word in (task, *OTHER_NAMES[task])), None)
    if task is None:
        raise UsageError(
            f"unknown kind of task: {name!r}",
            code="unknown-task",
            hint=f"use one of {', '.join(TASKS)}, or a name such as sst2, gsm8k, seq_cls or text_generation",
        )
    return task


def training_config_in(folder: Path) -> Path:
    """Return the path of a training folder's configuration. Raises InputError (config-not-found, config-pickle)."""
    for name in (*TRAINING_NAMES, *SHARED_NAMES):
        if (folder / name).is_file():
            return folder / name
    if (folder / "training_args.bin").is_file():
        raise config_pickle(folder / "training_args.bin")
    raise InputError(
        f"{folder}: no training configuration in it",
        code="config-not-found",
        hint=f"give the file itself; looked for {', '.join((*TRAINING_NAMES, *SHARED_NAMES))}",
    )


def configurations_at(path: Path) -> list[Path]:
    """Return the configuration files that a path means: itself, or those in a folder, the adapter's first.

    Raises InputError (config-not-found, config-pickle).
    """
    if not path.is_dir():
        return [path]
    adapter = path / CONFIG
    if not adapter.is_file():
        return [training_config_in(path)]
    return [adapter, *[path / name for name in TRAINING_NAMES if (path / name).is_file()][:1]]


@public(CheckSettings)
def check_config(settings: CheckSettings) -> CheckReport:
    """Check training configurations, and return the findings. Needs at least one file, folder or setting.

    >>> check_config(r=16, alpha=16, lr=2e-4).settings.scale
    1.0

    Keywords, named like the flags of `gradience check`:

    Raises UsageError (nothing-to-check, unknown-task), InputError (config-not-found, and what `read_mapping` raises).
    """
    task = None if settings.task is None else task_of(settings.task)
    paths = [path for config in paths_of(settings.configs) for path in configurations_at(config)]
    if settings.peft_dir is not None:
        paths.append(Path(settings.peft_dir) / CONFIG)
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
    return _report(rules.Context(given.completed(), task, training_dialect), files)


def _report(context: rules.Context, files: list[SourceFile]) -> CheckReport:
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
