"""`gradience monitor`: what happened in a training run, and what to do about it?"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.exit_codes import ExitCode
from gradience.cli.follow import Screen, can_redraw
from gradience.cli.options import ReportAsJson
from gradience.cli.output import print_result, screen
from gradience.cli.page import Html, save_report
from gradience.errors import UsageError

if TYPE_CHECKING:
    from gradience.reports.monitor import MonitorReport

SECONDS_BETWEEN_LOOKS = 2.0


class FailOn(StrEnum):
    """From which severity on the exit code is 1."""

    WARNING = "warning"
    ERROR = "error"


def monitor(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="RUN.jsonl", help="File written by GradienceCallback; several are compared."),
    ],
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Also show evidence and sources, gradients, families of modules."
        ),
    ] = False,
    json: ReportAsJson = False,
    html: Html = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Update the report while the run continues; ends with the run."),
    ] = False,
    gap_threshold: Annotated[
        float,
        typer.Option(
            "--gap-threshold",
            metavar="X",
            min=1.0,
            help="Alert threshold: ratio of evaluation to training perplexity.",
        ),
    ] = 1.5,
    strict_schema: Annotated[
        bool,
        typer.Option("--strict-schema", help="Refuse a file with an unreadable line or another schema."),
    ] = False,
    fail_on: Annotated[
        FailOn | None,
        typer.Option(
            "--fail-on",
            metavar="SEVERITY",
            help="Exit with 1 on an alert: any (warning), or errors only (error).",
        ),
    ] = None,
) -> int:
    """Reads the file once, whatever its size; needs no PyTorch.

    Examples:

      gradience monitor ./run.jsonl --verbose

      gradience monitor seed*/run.jsonl

      gradience monitor ./run.jsonl --fail-on error
    """
    from gradience.monitor import monitor_runs, require_strict

    if follow:
        report = _follow(files, gap_threshold, verbose=verbose, json=json)
    else:
        report = monitor_runs(files, gap_threshold=gap_threshold)
    if strict_schema:
        require_strict(report)
    save_report(html, report)
    if not (follow and json):  # whose last line it was
        _print(report, verbose=verbose, json=json)
    return ExitCode.GATE_FAILED if fail_on and _met(report, fail_on) else ExitCode.DONE


def _print(report: MonitorReport, *, verbose: bool, json: bool) -> None:
    from gradience.report.monitor import monitor_text

    print_result(monitor_text, report, as_json=json, verbose=verbose)
    sys.stdout.flush()


def _follow(files: list[Path], gap_threshold: float, *, verbose: bool, json: bool) -> MonitorReport:
    """The report at the end of the run, or at Ctrl-C, after which it is printed.

    Until then a terminal shows it in place, and `--json` prints a line whenever the file has grown.
    """
    from gradience.report.monitor import monitor_text

    if len(files) > 1:
        raise UsageError("--follow takes one run", code="follow-one", hint="give one file")
    report: MonitorReport | None = None
    try:
        if json:
            for report in _reports(files[0], gap_threshold):
                _print(report, verbose=verbose, json=True)
        elif can_redraw():
            with Screen() as terminal:
                for report in _reports(files[0], gap_threshold):
                    terminal.draw(screen(monitor_text, report, verbose=verbose))
        else:  # a file or a pipe gets the last one
            *_, report = _reports(files[0], gap_threshold)
    except KeyboardInterrupt:
        if report is not None and not json:
            _print(report, verbose=verbose, json=False)
        raise
    assert report is not None  # the last of the reports ended the loop
    return report


def _reports(file: Path, gap_threshold: float) -> Iterator[MonitorReport]:
    """A report whenever the file has grown; the last one is of the run's end."""
    from gradience.monitor import RunLog, report_of

    log, records = RunLog(file), -1
    while True:
        log.update(follow=True)
        if log.records and log.records != records:
            records = log.records
            report = report_of([log], gap_threshold)
            yield report
            if report.runs[0].outcome != "unfinished":
                return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _met(report: MonitorReport, fail_on: FailOn) -> bool:
    severities = {alert.severity for run in report.runs for alert in run.alerts}
    return "error" in severities or (fail_on is FailOn.WARNING and "warning" in severities)
