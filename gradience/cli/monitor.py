"""`gradience monitor`: what happened in a training run, and what to do about it?"""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.console import wants_colour
from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import print_text, terminal_width
from gradience.errors import UsageError

if TYPE_CHECKING:
    from gradience.artifacts.monitor import MonitorReport

SECONDS_BETWEEN_LOOKS = 2.0
CLEAR = "\x1b[H\x1b[2J"


class FailOn(StrEnum):
    """From which severity on the exit code is 1."""

    WARNING = "warning"
    ERROR = "error"


def monitor(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="RUN.jsonl...", help="What GradienceCallback wrote; several are compared."),
    ],
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Show evidence and sources, gradients, families of modules."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on reading while the run goes on; ends with the run.")
    ] = False,
    gap_threshold: Annotated[
        float,
        typer.Option(
            "--gap-threshold",
            metavar="X",
            min=1.0,
            help="Ratio of evaluation to training perplexity that is an alert.",
        ),
    ] = 1.5,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="Exit with 1 on an alert of this severity or above.")
    ] = None,
) -> int:
    """Tell what happened in a training run: loss, evaluation, use of rank, what is wrong, what to do.

    Reads the file once, whatever its size; needs no PyTorch.

    Examples:

      gradience monitor ./run.jsonl --verbose

      gradience monitor seed*/run.jsonl

      gradience monitor ./run.jsonl --fail-on error
    """
    from gradience.monitor import monitor_runs

    if follow:
        report = _follow(files, gap_threshold, verbose=verbose, json=json)
    else:
        report = monitor_runs(files, gap_threshold=gap_threshold)
        _print(report, verbose=verbose, json=json)
    return ExitCode.GATE_FAILED if fail_on and _met(report, fail_on) else ExitCode.DONE


def _print(report: MonitorReport, *, verbose: bool, json: bool) -> None:
    from gradience.report.monitor import monitor_text

    if json:
        sys.stdout.write(report.to_json(None) + "\n")
    else:
        print_text(
            monitor_text(report, width=terminal_width(), color=wants_colour(sys.stdout), verbose=verbose)
        )
    sys.stdout.flush()


def _follow(files: list[Path], gap_threshold: float, *, verbose: bool, json: bool) -> MonitorReport:
    """Print the report again whenever the file has grown, until its run ends.

    On a terminal the screen is drawn anew; elsewhere one report follows the other.
    """
    from gradience.monitor import Options, RunLog, report_of

    if len(files) > 1:
        raise UsageError("--follow is for one run", code="follow-one", hint="name one file")
    log, options, records = RunLog(files[0]), Options(gap_threshold=gap_threshold), -1
    while True:
        log.update(follow=True)
        if log.records and log.records != records:
            records = log.records
            report = report_of([log], options)
            if sys.stdout.isatty() and not json:
                sys.stdout.write(CLEAR)
            _print(report, verbose=verbose, json=json)
            if report.runs[0].outcome != "unfinished":
                return report
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _met(report: MonitorReport, fail_on: FailOn) -> bool:
    severities = {alert.severity for run in report.runs for alert in run.alerts}
    return "error" in severities or (fail_on is FailOn.WARNING and "warning" in severities)
