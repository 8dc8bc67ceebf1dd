"""`gradience init`: a commented config to begin with."""

from __future__ import annotations

import shlex

from gradience.cli.console import show_written
from gradience.settings import call
from gradience.starter_configs import StarterSettings, write_bench_config


def init(settings: StarterSettings) -> None:
    """Missing values are placeholders. Paths are relative to the file.

    Example:

      gradience init --base-model ./base --data rows.jsonl
    """
    written = call(write_bench_config, settings)
    command = f"gradience bench run --config {shlex.quote(str(written))} --dry-run"
    show_written(f"{written}; fill in its placeholders, then run: {command}")
