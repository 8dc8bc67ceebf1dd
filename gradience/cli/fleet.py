"""`gradience fleet`: thousands of adapters, a row each, and what holds over all of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import AllowPickle, MaxMemory, Quiet, ReportAsJson, bytes_of, one_of
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html
from gradience.cli.progress import ProgressBar
from gradience.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from gradience.fleet.verb import Measure


def _executors() -> list[str]:
    """Those of clusters: processes of this machine need none."""
    from gradience.executors import EXECUTORS

    return [name for name in EXECUTORS if name != "local"]


def _measure(executor: str | None, parts: int, output: Path | None, root: Path) -> Measure | None:
    """What measures on a cluster, where one is named. Raises UsageError (unknown-executor, no-output)."""
    if executor is None:
        return None
    if executor not in _executors():
        raise UsageError(
            f"there is no executor {executor!r}",
            code="unknown-executor",
            hint=did_you_mean(executor, _executors(), f"one of: {', '.join(_executors())}"),
        )
    if output is None:
        raise UsageError("--executor needs --output", code="no-output", hint="such as -o fleet.jsonl")
    from gradience.executors.measuring import OnExecutor

    return OnExecutor(executor, parts, output.with_name(f"{output.name}.parts"), root)


def fleet(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE", help="Folder of adapters, adapter, or .txt file with a path per line."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="fleet.jsonl, one row per adapter; .csv and .parquet are written beside it.",
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Look for adapters in folders at any depth.")
    ] = False,
    root: Annotated[
        Path,
        typer.Option("--root", metavar="DIR", help="Folder that the paths of the rows are relative to."),
    ] = Path(),
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Predict what a lower step does to the outputs of this calibration's adapter; may be repeated.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", metavar="N", min=1, help="Processes at a time (default: one per processor)."
        ),
    ] = None,
    executor: Annotated[
        str | None,
        typer.Option(
            "--executor",
            metavar="NAME",
            help="Measure by commands on a cluster, with --output: ray (docs/scale.md).",
            autocompletion=one_of(_executors),
        ),
    ] = None,
    parts: Annotated[
        int,
        typer.Option(
            "--parts", metavar="N", min=1, help="With --executor: how many commands, each on one core."
        ),
    ] = 8,
    json: ReportAsJson = False,
    html: Html = None,
    allow_pickle: AllowPickle = False,
    max_memory: MaxMemory = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing .csv or .parquet file.")
    ] = False,
    quiet: Quiet = False,
) -> int:
    """With --output it resumes: an adapter whose files have not changed is not measured again. An adapter that
    cannot be measured is a row with the code of its error (exit code 4).

    Examples:

      gradience fleet adapters/ -o fleet.jsonl

      gradience fleet adapters/ --recursive -o fleet.csv

      gradience fleet adapters/ -o fleet.jsonl --executor ray --parts 64

      gradience compress --fleet fleet.jsonl --to-rank 16 -o smaller/
    """
    from gradience.fleet.verb import audit_fleet
    from gradience.report.fleet import fleet_text

    limit = bytes_of(max_memory)
    with ProgressBar("measuring adapters", quiet=quiet) as progress:
        report = audit_fleet(
            sources,
            output,
            root=root,
            recursive=recursive,
            calibrations=calibration or (),
            allow_pickle=allow_pickle,
            force=force,
            workers=workers,
            max_memory=limit,
            measure=_measure(executor, parts, output, root),
            progress=progress,
            command=command_line(),
        )
    print_result(fleet_text, report, as_json=json, quiet=quiet, html=html)
    return ExitCode.INCOMPLETE if report.failed or report.incomplete else ExitCode.DONE
