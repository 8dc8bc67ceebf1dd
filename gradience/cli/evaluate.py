"""`gradience evaluate`: adapters on your own examples, each against the first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gradience.cli.console import show_root
from gradience.cli.exit_codes import ExitCode, code_of_grades
from gradience.cli.options import CodeSettings
from gradience.cli.output import TextsOutput
from gradience.evaluate.settings import EvaluateSettings, evaluate_settings
from gradience.settings import Flag, StrPath, required_output, settings_model

if TYPE_CHECKING:
    from gradience.reports.evaluation import EvaluationReport
    from gradience.reports.evaluation_sets import EvaluationSetsReport


@settings_model(kw_only=True)
class Command(CodeSettings):
    """Options."""

    config: Annotated[StrPath | None, Flag("FILE", "-c")] = None
    """A YAML file of these settings (docs/reference/configs.md); flags override it."""


def evaluate(given: Annotated[dict[str, Any], EvaluateSettings], how: Command, out: TextsOutput) -> int:
    """Exit codes: 0 if every candidate is shown to stay within the margin (grade B), 8 if one is inconclusive (C), 1 if
    one is worse (D), 4 if one could not be evaluated (X).

    Examples:

      gradience evaluate ./my_adapter ./smaller --base-model embedded:minilm --task reviews -o out

      gradience evaluate ./my_adapter ./smaller -b ./base --data rows.jsonl --with-base -o out

      gradience evaluate ./my_adapter ./smaller -b ./base --prompts prompts.jsonl --margin 1.5 -o out

      gradience evaluate ./my_adapter ./smaller --data rows.jsonl --guard text:notes.txt --guard lm_eval:arc_easy -o out

      gradience evaluate --config evaluate.yaml --dry-run
    """
    settings = evaluate_settings(given, None if how.config is None else Path(how.config))
    output = None if settings.dry_run or settings.preview else required_output(settings.output, "DIR")
    out.refuse_page(dry_run=output is None)
    from gradience.evaluate.verb import DOCUMENT, EVALUATION, JOINT, JOINT_DOCUMENT, evaluate_adapters
    from gradience.reports.evaluation import EvaluationReport
    from gradience.reports.evaluation_sets import EvaluationSetsReport

    with how.allowing():
        result = out.watch(evaluate_adapters, settings)
    if output is None or not isinstance(result, EvaluationReport | EvaluationSetsReport):
        out.show_aloud(result)
        return ExitCode.DONE
    out.show(result, folder=output, data=settings.data_file)
    joint = isinstance(result, EvaluationSetsReport)
    out.written(*(output / name for name in ((JOINT, JOINT_DOCUMENT) if joint else (EVALUATION, DOCUMENT))))
    if not out.quiet:
        show_root(output)
    return code_of(result)


def code_of(report: EvaluationReport | EvaluationSetsReport) -> ExitCode:
    """Return 4 if a candidate could not be evaluated, 1 for an inferior one, 8 for one that is not shown, else 0."""
    return code_of_grades(row.grade for row in report.candidates)
