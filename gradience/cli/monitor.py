"""`gradience monitor`: report alerts and recommendations for training runs."""

from typing import Annotated, Literal

from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import VerboseOutput
from gradience.monitor import MonitorSettings, monitor_runs
from gradience.settings import Flag, call, settings_model


@settings_model(kw_only=True)
class MonitorOutput(VerboseOutput):
    """Output."""

    fail_on: Annotated[Literal["warning", "error"] | None, Flag("SEVERITY")] = None
    """Exit with 1 on an alert of at least this severity."""


def monitor(settings: MonitorSettings, out: MonitorOutput) -> int:
    """Works on files of any size, without PyTorch.

    Examples:

      gradience monitor ./run.jsonl --verbose

      gradience monitor seed*/run.jsonl

      gradience monitor ./run.jsonl --fail-on error
    """
    report = call(monitor_runs, settings)
    out.show(report)
    severities = {alert.severity for run in report.runs for alert in run.alerts}
    met = out.fail_on in severities or (out.fail_on == "warning" and "error" in severities)
    return ExitCode.GATE_FAILED if met else ExitCode.DONE
