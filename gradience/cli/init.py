"""`gradience init`: a commented config to begin with."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gradience.cli.console import show_written
from gradience.cli.help import Group, Verb
from gradience.errors import UsageError

init = typer.Typer(
    name="init",
    cls=Group,
    rich_markup_mode=None,
)

Task = Annotated[
    str | None,
    typer.Option(
        "--task", metavar="NAME", help="A task by its name, or path/to/file.py (default: what --data holds)."
    ),
]
BaseModel = Annotated[
    str | None,
    typer.Option(
        "--base-model", "-b", metavar="ID_OR_PATH", help="A folder, a name on the hub, or embedded:minilm."
    ),
]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help="Your examples: CSV, TSV or JSON lines.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]


@init.command(cls=Verb)
def bench(
    task: Task = None,
    base_model: BaseModel = None,
    data: Data = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where it is written.")
    ] = Path("bench.yaml"),
    force: Force = False,
) -> None:
    """Write a config of Bench.

    What is not given stands as a placeholder. Paths in the file start at its folder.

    Example:

      gradience init bench --base-model ./base --data rows.jsonl
    """
    from gradience.report.starter_configs import bench_config

    profile, options = _rows(data) if task is None and data is not None else (_profile(task, output), {})
    text = bench_config(
        output.name,
        model=_model(base_model, output),
        profile=profile,
        options=options,
        data=_file(data, output),
    )
    _write(text, output, "gradience bench run --config", force=force)


@init.command(cls=Verb)
def evaluate(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ADAPTER…", help="Adapter folders; the first is the reference."),
    ] = None,
    task: Task = None,
    base_model: BaseModel = None,
    data: Data = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where it is written.")
    ] = Path("evaluate.yaml"),
    force: Force = False,
) -> None:
    """Write a config of an evaluation.

    What is not given stands as a placeholder. Paths in the file start at its folder.

    Example:

      gradience init evaluate ./my_adapter ./smaller --data rows.jsonl
    """
    from gradience.report.starter_configs import evaluation_config

    text = evaluation_config(
        output.name,
        adapters=[_seen(each, output) for each in adapters or ()],
        base_model=_model(base_model, output),
        profile=_profile(task, output),
        data=_file(data, output),
        reads="jsonl" if data is None or task is not None else _rows(data)[0],
    )
    _write(text, output, "gradience evaluate --config", force=force)


def _rows(data: Path) -> tuple[str, Mapping[str, Any]]:
    """The task that reads such rows, and options that it needs."""
    from gradience.evaluate.inputs import reader_of

    return reader_of(data, {})


def _profile(task: str | None, output: Path) -> str | None:
    from gradience.tasks.user_code import is_file

    return _seen(Path(task), output) if task is not None and is_file(task) else task


def _model(name: str | None, output: Path) -> str | None:
    return _seen(Path(name), output) if name is not None and Path(name).is_dir() else name


def _file(data: Path | None, output: Path) -> str | None:
    return None if data is None else _seen(data, output)


def _seen(path: Path, output: Path) -> str:
    """`path` as it is seen from the folder of the config; an absolute one stays."""
    return str(path) if path.is_absolute() else os.path.relpath(path, output.parent)


def _write(text: str, output: Path, command: str, *, force: bool) -> None:
    from gradience.files.whole import write_whole

    if output.exists() and not force:
        raise UsageError(
            f"{output}: exists already",
            code="output-exists",
            hint="give --force to replace it, or another --output",
        )
    write_whole(output, [text.encode()])
    show_written(f"{output}; next: {command} {shlex.quote(str(output))} --dry-run")
