"""`gradience monitor`: report alerts and recommendations for training runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic.dataclasses import dataclass

from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import PageOutput, screen
from gradience.errors import UsageError
from gradience.monitor.settings import MonitorSettings
from gradience.settings import SETTINGS, Flag, call, paths_of

if TYPE_CHECKING:
    from gradience.reports.monitor import MonitorReport

SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class MonitorOutput(PageOutput):
    """Output."""

    verbose: Annotated[bool, Flag(short="-v")] = False
    """Also show evidence and sources, gradients, families of modules."""
    follow: Annotated[bool, Flag(short="-f")] = False
    """Update the report while the run continues; ends with the run."""
    fail_on: Annotated[Literal["warning", "error"] | None, Flag("SEVERITY")] = None
    """Exit with 1 on an alert of at least this severity."""


def monitor(settings: MonitorSettings, out: MonitorOutput) -> int:
    """Reads a file of any size once. Needs no PyTorch.

    Examples:

      gradience monitor ./run.jsonl --verbose

      gradience monitor seed*/run.jsonl

      gradience monitor ./run.jsonl --fail-on error
    """
    from gradience.monitor import monitor_runs, require_strict

    report = _follow(settings, out) if out.follow else call(monitor_runs, settings)
    if settings.strict_schema:
        require_strict(report)
    out.save_page(report)
    if not (out.follow and out.json):  # the last line was already printed
        _print(report, out)
    severities = {alert.severity for run in report.runs for alert in run.alerts}
    met = out.fail_on in severities or (out.fail_on == "warning" and "error" in severities)
    return ExitCode.GATE_FAILED if met else ExitCode.DONE


def _print(report: MonitorReport, out: MonitorOutput) -> None:

    out.print(report, verbose=out.verbose)
    sys.stdout.flush()


def _follow(settings: MonitorSettings, out: MonitorOutput) -> MonitorReport:
    """The report at the end of the run, or at Ctrl-C, after which it is printed.

    Until then a terminal shows it in place, and `--json` prints a line whenever the file has grown.
    """
    from gradience.cli.follow import Screen, can_redraw

    if len(paths_of(settings.paths)) > 1:
        raise UsageError("--follow takes one run", code="follow-one", hint="give one file")
    report: MonitorReport | None = None
    try:
        if out.json:
            for report in _reports(settings):
                _print(report, out)
        elif can_redraw():
            with Screen() as terminal:
                for report in _reports(settings):
                    terminal.draw(screen(type(report).to_text, report, verbose=out.verbose))
        else:  # a file or a pipe gets the last one
            *_, report = _reports(settings)
    except KeyboardInterrupt:
        if report is not None and not out.json:
            _print(report, out)
        raise
    assert report is not None  # the last of the reports ended the loop
    return report


def _reports(settings: MonitorSettings) -> Iterator[MonitorReport]:
    """A report whenever the file has grown; the last one is of the run's end."""
    from gradience.monitor import RunLog, report_of

    log, records = RunLog(paths_of(settings.paths)[0]), -1
    while True:
        log.update(follow=True)
        if log.records and log.records != records:
            records = log.records
            report = report_of([log], settings.gap_threshold)
            yield report
            if report.runs[0].outcome != "unfinished":
                return
        time.sleep(SECONDS_BETWEEN_LOOKS)
