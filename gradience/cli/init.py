"""`gradience init`: a commented config to begin with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.dataclasses import dataclass

from gradience.cli.console import show_written
from gradience.cli.flags import with_flags
from gradience.cli.help import Group, Verb
from gradience.settings import SETTINGS, Flag, StrPath, paths_of

init = typer.Typer(name="init", cls=Group, rich_markup_mode=None)


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class StarterSettings:
    """Config."""

    task: Annotated[str | None, Flag("NAME")] = None
    """A task by its name, or path/to/file.py (default: what --data holds)."""
    base_model: Annotated[str | None, Flag("ID_OR_PATH", "-b")] = None
    """A folder, a name on the hub, or embedded:minilm."""
    data: Annotated[StrPath | None, Flag("FILE")] = None
    """Your examples: CSV, TSV or JSON lines."""
    output: Annotated[StrPath, Flag("FILE", "-o")] = "bench.yaml"
    """Path of the new file."""
    force: bool = False
    """Replace an existing file."""


@dataclass(frozen=True, config=SETTINGS)
class EvaluationStarterSettings(StarterSettings):
    """Adapters."""

    adapters: Annotated[Sequence[StrPath], Flag("ADAPTER")] = ()
    """Adapter folders; the first is the reference."""
    _: KW_ONLY
    output: Annotated[StrPath, Flag("FILE", "-o")] = "evaluate.yaml"
    """Path of the new file."""


def bench(settings: StarterSettings) -> None:
    """Write a config of Bench.

    Missing values are placeholders. Paths are relative to the file.

    Example:

      gradience init bench --base-model ./base --data rows.jsonl
    """
    from gradience.starter_configs import bench_config

    output, task, data = Path(settings.output), settings.task, settings.data
    profile, options = _rows(data) if task is None and data is not None else (_profile(task, output), {})
    text = bench_config(
        output.name,
        model=_model(settings.base_model, output),
        profile=profile,
        options=options,
        data=_file(data, output),
    )
    _write(text, output, "gradience bench run --config", force=settings.force)


def evaluate(settings: EvaluationStarterSettings) -> None:
    """Write a config of an evaluation.

    Missing values are placeholders. Paths are relative to the file.

    Example:

      gradience init evaluate ./my_adapter ./smaller --data rows.jsonl
    """
    from gradience.starter_configs import evaluation_config

    output, task, data = Path(settings.output), settings.task, settings.data
    text = evaluation_config(
        output.name,
        adapters=[_seen(path, output) for path in paths_of(settings.adapters)],
        base_model=_model(settings.base_model, output),
        profile=_profile(task, output),
        data=_file(data, output),
        reads="jsonl" if data is None or task is not None else _rows(data)[0],
    )
    _write(text, output, "gradience evaluate --config", force=settings.force)


init.command(cls=Verb)(with_flags(bench))
init.command(cls=Verb)(with_flags(evaluate))


def _rows(data: str | os.PathLike[str]) -> tuple[str, Mapping[str, Any]]:
    """The task that reads such rows, and options that it needs."""
    from gradience.evaluate.inputs import reader_of

    return reader_of(Path(data), {})


def _profile(task: str | None, output: Path) -> str | None:
    from gradience.tasks.user_code import is_file

    return _seen(Path(task), output) if task is not None and is_file(task) else task


def _model(name: str | None, output: Path) -> str | None:
    return _seen(Path(name), output) if name is not None and Path(name).is_dir() else name


def _file(data: str | os.PathLike[str] | None, output: Path) -> str | None:
    return None if data is None else _seen(Path(data), output)


def _seen(path: Path, output: Path) -> str:
    """`path` as it is seen from the folder of the config; an absolute one stays."""
    return str(path) if path.is_absolute() else os.path.relpath(path, output.parent)


def _write(text: str, output: Path, command: str, *, force: bool) -> None:
    from gradience.files.whole import already_exists, write_whole

    if output.exists() and not force:
        raise already_exists(output)
    write_whole(output, [text.encode()])
    show_written(f"{output}; next: {command} {shlex.quote(str(output))} --dry-run")
