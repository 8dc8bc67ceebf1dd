"""`gradience evidence`: two logs of an evaluation, example by example."""

from typing import Annotated, Literal

from gradience.cli.exit_codes import ExitCode
from gradience.cli.output import TextsOutput, command_line
from gradience.evidence.settings import EvidenceSettings
from gradience.settings import Flag, call, settings_model


@settings_model(kw_only=True)
class GradedOutput(TextsOutput):
    """Output."""

    require_grade: Annotated[Literal["B", "C"], Flag("GRADE")] = "B"
    """Required grade: exit with 8 for a C if B is required, with 1 for a D."""


def evidence(settings: EvidenceSettings, out: GradedOutput) -> int:
    """Reports whether the candidate stays within your margin of the reference, with confidence bounds, and the
    examples on which they differ.

    Reads samples of lm-eval (--log_samples), logs of Inspect (.eval), records of Every Eval Ever, and CSV, TSV or
    JSON lines with `id` and `score`.

    Examples:

      gradience evidence runs/base runs/lora --filter strict-match

      gradience evidence probe.csv truncated.csv --require-grade C
    """
    from gradience.evidence.verb import compare_logs

    report = call(compare_logs, settings, command=command_line())
    out.show(report)
    if report.grade <= out.require_grade:
        return ExitCode.DONE
    return ExitCode.INCONCLUSIVE if report.grade == "C" else ExitCode.GATE_FAILED
