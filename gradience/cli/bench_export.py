"""`gradience bench export`: a run in the formats that others read."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.console import show_written
from gradience.cli.exit_codes import ExitCode


class Format(StrEnum):
    """What a run can be exported to."""

    EEE = "eee"
    HUB = "hub"


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished run.")],
    to: Annotated[
        Format,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="eee: Every Eval Ever 0.3.0, JSON and JSONL; hub: YAML for .eval_results/.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to write to.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset", metavar="ORG/NAME", help="hub: the data set, where the task does not say it."
        ),
    ] = None,
) -> int:
    """Write the results of a run as others read them.

    Examples:

      gradience bench export runs/mine --to eee -o every_eval_ever

      gradience bench export runs/gsm8k --to hub -o eval_results
    """
    from gradience.errors import require

    require("scipy", extra="stats")
    from gradience.bench.export.eee import export_eee
    from gradience.bench.export.hub import export_hub

    written = export_eee(folder, output) if to is Format.EEE else export_hub(folder, output, dataset=dataset)
    show_written(f"{len(written)} files in {output}")
    return ExitCode.DONE
