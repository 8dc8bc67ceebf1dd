"""`gradience evaluate`: adapters on your own examples, each against the first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradience.cli.engine import name_engine_python
from gradience.cli.exit_codes import ExitCode
from gradience.cli.flags import with_flags
from gradience.cli.options import AllowCode, EnginePython, Quiet, ReportAsJson
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, NoTexts, shows_texts
from gradience.errors import UsageError
from gradience.evaluate.settings import EvaluateSettings, evaluate_settings

if TYPE_CHECKING:
    from gradience.evaluate.inputs import Inputs
    from gradience.reports.evaluation import EvaluationReport


@with_flags(EvaluateSettings)
def evaluate(
    given: dict[str, Any],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="A YAML file with these settings, as gradience init writes it; flags replace them.",
        ),
    ] = None,
    engine_python: EnginePython = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check the inputs; print memory and the margin that can be shown."),
    ] = False,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview", help="Print three rendered examples with what is scored in them; no model is loaded."
        ),
    ] = False,
    allow_code: AllowCode = False,
    json: ReportAsJson = False,
    html: Html = None,
    no_texts: NoTexts = False,
    quiet: Quiet = False,
) -> int:
    """Exit codes: 0 every candidate is shown to be as good (B), 8 some are inconclusive (C), 1 some are worse (D),
    4 some could not be evaluated (X).

    Examples:

      gradience evaluate ./my_adapter ./smaller --base-model embedded:minilm --task reviews -o out

      gradience evaluate ./my_adapter ./smaller -b ./base --data rows.jsonl --with-base -o out

      gradience evaluate --config evaluate.yaml --dry-run
    """
    from gradience.cli.bench_run import need_libraries
    from gradience.evaluate.inputs import read_inputs
    from gradience.tasks.user_code import allowing

    texts = shows_texts(html, no_texts=no_texts)
    name_engine_python(engine_python)
    settings = evaluate_settings(given, config)
    with allowing(allow_code):
        if settings.output is None and not (dry_run or preview):
            raise UsageError(
                "no --output given", code="no-output", hint="give --output DIR, or --dry-run to see the plan"
            )
        need_libraries()
        if preview:
            return _preview(settings, as_json=json, html=html, texts=texts)
        inputs = read_inputs(settings)
        if settings.output is None or dry_run:
            return _forecast(inputs, as_json=json, html=html)
        return _evaluate(inputs, Path(settings.output), as_json=json, html=html, texts=texts, quiet=quiet)


def code_of(report: EvaluationReport) -> ExitCode:
    """Return 4 where a candidate could not be evaluated, 1 for an inferior one, 8 for one that is not shown, else 0."""
    grades = {row.grade for row in report.candidates}
    for grade, code in (
        ("X", ExitCode.INCOMPLETE),
        ("D", ExitCode.GATE_FAILED),
        ("C", ExitCode.INCONCLUSIVE),
    ):
        if grade in grades:
            return code
    return ExitCode.DONE


def _forecast(inputs: Inputs, *, as_json: bool, html: Path | None) -> int:
    from gradience.evaluate.forecast import forecast_evaluation
    from gradience.report.evaluation import evaluation_forecast_text

    print_result(evaluation_forecast_text, forecast_evaluation(inputs), as_json=as_json, html=html)
    return ExitCode.DONE


def _preview(settings: EvaluateSettings, *, as_json: bool, html: Path | None, texts: bool) -> int:
    from gradience.evaluate.preview import preview_evaluation, read_preview
    from gradience.report.forecast import preview_text

    inputs = read_preview(settings)
    print_result(preview_text, preview_evaluation(inputs), as_json=as_json, html=html, texts=texts)
    return ExitCode.DONE


def _evaluate(
    inputs: Inputs, output: Path, *, as_json: bool, html: Path | None, texts: bool, quiet: bool
) -> int:
    from gradience.cli.console import beneath, show_note, show_written
    from gradience.cli.progress import StageProgress
    from gradience.evaluate.forecast import margins_of
    from gradience.evaluate.verb import DOCUMENT, EVALUATION
    from gradience.evaluate.verb import evaluate as run
    from gradience.report.evaluation import evaluation_text, showable
    from gradience.report.faces import to_markdown

    for note in inputs.notes:
        show_note(note)
    if not quiet and len(inputs.adapters) > 1 and not inputs.compares_nll:
        margins = margins_of(len(inputs.examples), len(inputs.adapters) - 1)
        print(showable(len(inputs.examples), margins), file=beneath(sys.stderr), flush=True)
    with StageProgress(quiet=quiet) as watcher:
        report = run(inputs, output, watcher, page_of=to_markdown, command=command_line())
    print_result(evaluation_text, report, as_json=as_json, quiet=quiet, html=html, folder=output, texts=texts)
    if not quiet:
        show_written(f"{output / EVALUATION}, {DOCUMENT}")
    return code_of(report)
