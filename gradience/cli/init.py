"""`gradience init`: a commented config to begin with."""

import shlex

from gradience.cli.console import show_written
from gradience.settings import call
from gradience.starter_configs import ROWS, StarterSettings, write_bench_config


def init(settings: StarterSettings) -> None:
    """Without --base-model or --data, edit model.name or task.options.file. Paths are relative to the file.

    Example:

      gradience init --base-model ./base --data rows.jsonl
    """
    written = call(write_bench_config, settings)
    command = f"gradience bench run --config {shlex.quote(str(written))} --dry-run"
    missing = [] if settings.base_model else ["model.name"]
    if settings.data is None and settings.task in (None, *ROWS):
        missing.append("task.options.file")
    edit = f"edit {' and '.join(missing)}, then run" if missing else "next"
    show_written(f"{written}; {edit}: {command}")
