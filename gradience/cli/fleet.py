"""`gradience fleet`: measure thousands of adapters and summarize them."""

from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import ReportOutput
from gradience.fleet.settings import FleetSettings


def fleet(settings: FleetSettings, out: ReportOutput) -> int:
    """With --output it resumes: unchanged adapters are not measured again. An adapter that
    cannot be measured is a row with the code of its error (exit code 4).

    Examples:

      gradience fleet adapters/ -o fleet.jsonl

      gradience fleet adapters/ --recursive -o fleet.jsonl

      gradience compress fleet.jsonl --rank 16 -o smaller/
    """
    from gradience.fleet.discover import root_of
    from gradience.fleet.verb import audit_fleet

    report = out.run(audit_fleet, settings, "measuring adapters")
    out.show(report, paths=(str(root_of(settings)),))
    return ExitCode.INCOMPLETE if report.failed or report.incomplete else ExitCode.DONE
