"""`gradience fleet`: thousands of adapters, a row each, and what holds over all of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import AllowPickle, MaxMemory, Quiet, ReportAsJson, bytes_of
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html
from gradience.cli.progress import ProgressBar


class Executor(StrEnum):
    """Where adapters are measured, if not by processes of this machine."""

    RAY = "ray"


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
        Executor | None,
        typer.Option(
            "--executor",
            metavar="NAME",
            help="ray: measure on the Ray cluster that RAY_ADDRESS names (needs the extra [ray]).",
        ),
    ] = None,
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

      gradience fleet adapters/ -o fleet.jsonl --executor ray

      gradience compress --fleet fleet.jsonl --to-rank 16 -o smaller/
    """
    from gradience.fleet.verb import audit_fleet, rows_on_ray
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
            measure=None if executor is None else rows_on_ray,
            progress=progress,
            command=command_line(),
        )
    print_result(fleet_text, report, as_json=json, quiet=quiet, html=html)
    return ExitCode.INCOMPLETE if report.failed or report.incomplete else ExitCode.DONE
