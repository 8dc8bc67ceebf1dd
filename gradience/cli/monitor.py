"""`gradience monitor`: report alerts and recommendations for training runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic.dataclasses import dataclass

from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import PageOutput, screen
from gradience.monitor.settings import MonitorSettings
from gradience.settings import SETTINGS, Flag, call

if TYPE_CHECKING:
    from gradience.reports.monitor import MonitorReport


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
    from gradience.monitor import follow_run, monitor_runs

    report = _shown(call(follow_run, settings), out) if out.follow else call(monitor_runs, settings)
    out.save_page(report)
    if not (out.follow and out.json):  # the last line was already printed
        out.print(report, verbose=out.verbose)
    severities = {alert.severity for run in report.runs for alert in run.alerts}
    met = out.fail_on in severities or (out.fail_on == "warning" and "error" in severities)
    return ExitCode.GATE_FAILED if met else ExitCode.DONE


def _shown(reports: Iterator[MonitorReport], out: MonitorOutput) -> MonitorReport:
    """Return the report at the end of the run, or print it at Ctrl-C.

    Until then a terminal shows it in place, and `--json` prints a line whenever the file has grown.
    """
    from gradience.cli.follow import Screen, can_redraw

    report: MonitorReport | None = None
    try:
        with Screen() if can_redraw() and not out.json else nullcontext() as terminal:
            for report in reports:
                if out.json:
                    out.print(report, verbose=out.verbose)
                    sys.stdout.flush()
                elif terminal is not None:  # a file or a pipe gets the last one
                    terminal.draw(screen(type(report).to_text, report, verbose=out.verbose))
    except KeyboardInterrupt:
        if report is not None and not out.json:
            out.print(report, verbose=out.verbose)
            sys.stdout.flush()
        raise
    assert report is not None  # the last of the reports ended the loop
    return report
