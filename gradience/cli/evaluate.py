"""`gradience evaluate`: adapters on your own examples, each against the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic.dataclasses import dataclass

from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import CodeSettings, DryRun, need_libraries, say_notes
from gradience.cli.output import TextsOutput, command_line
from gradience.evaluate.settings import EvaluateSettings, evaluate_settings
from gradience.settings import SETTINGS, Flag, StrPath, required_output

if TYPE_CHECKING:
    from gradience.reports.evaluation import EvaluationReport


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class Command(CodeSettings, DryRun):
    """Options."""

    config: Annotated[StrPath | None, Flag("FILE", "-c")] = None
    """A YAML file with these settings, as gradience init writes it; flags replace them."""
    preview: bool = False
    """Print three rendered examples with what is scored in them; no model is loaded."""


def evaluate(given: Annotated[dict[str, Any], EvaluateSettings], how: Command, out: TextsOutput) -> int:
    """Exit codes: 0 every candidate is shown to be as good (B), 8 some are inconclusive (C), 1 some are worse (D),
    4 some could not be evaluated (X).

    Examples:

      gradience evaluate ./my_adapter ./smaller --base-model embedded:minilm --task reviews -o out

      gradience evaluate ./my_adapter ./smaller -b ./base --data rows.jsonl --with-base -o out

      gradience evaluate --config evaluate.yaml --dry-run
    """
    settings = evaluate_settings(given, None if how.config is None else Path(how.config))
    with how.allowing():
        output = None if how.dry_run or how.preview else required_output(settings.output, "DIR")
        need_libraries()
        if how.preview:
            from gradience.evaluate.forecast import preview_evaluation, read_preview

            out.show_aloud(preview_evaluation(read_preview(settings)))
            return ExitCode.DONE
        from gradience.evaluate.inputs import read_inputs

        inputs = read_inputs(settings)
        if output is None:
            from gradience.evaluate.forecast import forecast_evaluation

            out.show_aloud(forecast_evaluation(inputs))
            return ExitCode.DONE
        from gradience.cli.console import show_root, show_written
        from gradience.cli.progress import StageProgress
        from gradience.evaluate import verb
        from gradience.reports.base.report import Report

        say_notes(inputs, candidates=len(inputs.adapters) - 1, quiet=out.quiet)
        with StageProgress(quiet=out.quiet) as watcher:
            report = verb.evaluate(
                inputs, output, watcher, page_of=Report.to_markdown, command=command_line()
            )
        out.show(report, folder=output)
        if not out.quiet:
            show_written(f"{output / verb.EVALUATION}, {verb.DOCUMENT}")
            show_root(output)
        return code_of(report)


def code_of(report: EvaluationReport) -> ExitCode:
    """Return 4 if a candidate could not be evaluated, 1 for an inferior one, 8 for one that is not shown, else 0."""
    grades = {row.grade for row in report.candidates}
    codes = {"X": ExitCode.INCOMPLETE, "D": ExitCode.GATE_FAILED, "C": ExitCode.INCONCLUSIVE}
    return next((code for grade, code in codes.items() if grade in grades), ExitCode.DONE)
