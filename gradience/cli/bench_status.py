"""`gradience bench status`: how far a run is, who makes what, and what failed."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.follow import Screen, can_redraw
from gradience.cli.output import print_result, print_text, screen

if TYPE_CHECKING:
    from gradience.artifacts.bench_status import BenchStatus

SECONDS_BETWEEN_LOOKS = 2.0


def status(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder of a run, which may be running, stopped or finished."),
    ],
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            "-w",
            help="Look again until the run is finished: in place, or in a pipe a line per change.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the status as JSON.")] = False,
) -> None:
    """Show how far a run is: stages, workers, time left, failures.

    Looks at manifests, leases and logs, also those in the run's storage. Changes nothing, needs no PyTorch.

    Examples:

      gradience bench status runs/mine

      gradience bench status runs/mine --watch
    """
    from gradience.bench.status.look import look
    from gradience.report.bench_status import status_text

    if watch:
        _watch(folder, json=json)
    else:
        print_result(status_text, look(folder), as_json=json)


def _watch(folder: Path, *, json: bool) -> None:
    """On a terminal the screen in place, and once more at the end; elsewhere what has changed."""
    from gradience.report.bench_status import changes, status_text

    last: BenchStatus | None = None
    if json or not can_redraw():
        for seen in _looks(folder):
            lines = changes(last, seen)
            if json and lines:
                print_result(status_text, seen, as_json=True)
            elif lines:
                print_text("".join(f"{line}\n" for line in lines))
            last = seen
            sys.stdout.flush()
        return
    try:
        with Screen() as terminal:
            for last in _looks(folder):
                terminal.draw(screen(status_text, last))
    finally:
        if last is not None:
            print_result(status_text, last, as_json=False)


def _looks(folder: Path) -> Iterator[BenchStatus]:
    """The status every few seconds; the last is that of the finished run."""
    from gradience.bench.status.look import look

    while True:
        seen = look(folder)
        yield seen
        if seen.state == "finished":
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)
