"""`gradience init`: a commented config to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from gradience.cli.console import show_written
from gradience.cli.flags import with_flags
from gradience.cli.help import Group, Verb
from gradience.settings import call
from gradience.starter_configs import (
    EvaluationStarterSettings,
    StarterSettings,
    write_bench_config,
    write_evaluation_config,
)

init = typer.Typer(name="init", cls=Group, rich_markup_mode=None)


def bench(settings: StarterSettings) -> None:
    """Write a config of Bench.

    Missing values are placeholders. Paths are relative to the file.

    Example:

      gradience init bench --base-model ./base --data rows.jsonl
    """
    _show(call(write_bench_config, settings), "gradience bench run --config")


def evaluate(settings: EvaluationStarterSettings) -> None:
    """Write a config of an evaluation.

    Missing values are placeholders. Paths are relative to the file.

    Example:

      gradience init evaluate ./my_adapter ./smaller --data rows.jsonl
    """
    _show(call(write_evaluation_config, settings), "gradience evaluate --config")


init.command(cls=Verb)(with_flags(bench))
init.command(cls=Verb)(with_flags(evaluate))


def _show(written: Path, command: str) -> None:
    show_written(
        f"{written}; fill in its placeholders, then run: {command} {shlex.quote(str(written))} --dry-run"
    )
