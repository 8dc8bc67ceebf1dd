"""`gradience bench status`: how far a run is, and what failed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gradience.cli.output import print_result


def status(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of a run, which may be running, stopped or finished."),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print the status as JSON.")] = False,
) -> None:
    """Show how far a run is: finished, running and failed stages.

    Reads the folder of the run and changes nothing. Needs no PyTorch.

    Examples:

      gradience bench status runs/mine

      watch -n 5 gradience bench status runs/mine
    """
    from gradience.bench.status.look import look
    from gradience.report.bench_status import status_text

    print_result(status_text, look(folder), as_json=json)
