"""`gradience evaluate`: adapters on your own examples, each against the first."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.engine import name_engine_python
from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import (
    AllowCode,
    AnswerTokens,
    BasePacked,
    BaseRevision,
    Data,
    Engine,
    EnginePython,
    ExampleLimit,
    Precision,
    Quiet,
    ReportAsJson,
    TaskOptions,
    TestRole,
    TextTokens,
    Tokenizer,
)
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, NoTexts, shows_texts
from gradience.errors import UsageError

if TYPE_CHECKING:
    from gradience.artifacts.evaluation import EvaluationReport
    from gradience.evaluate.inputs import Inputs
    from gradience.evaluate.request import Request


def evaluate(
    adapters: Annotated[
        list[Path] | None,
        typer.Argument(metavar="ADAPTER…", help="Adapter folders; the first is the reference."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="A YAML file with these settings, as gradience init writes it; flags replace them.",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model",
            "-b",
            metavar="ID_OR_PATH",
            help="A folder, a name on the hub, or embedded:minilm (default: what the reference's config names).",
        ),
    ] = None,
    data: Data = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="NAME", help="A task by its name, such as reviews, gsm8k or lm_eval:arc_easy."
        ),
    ] = None,
    option: TaskOptions = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder of the result; with the same folder an interrupted evaluation resumes.",
        ),
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(
            "--margin",
            metavar="M",
            help="The loss that must be excluded, as a share: 0.025 is 2.5 points (default: 0.025).",
        ),
    ] = None,
    with_base: Annotated[
        bool,
        typer.Option(
            "--with-base",
            help="The base without an adapter as well (of a classifier: with the reference's head).",
        ),
    ] = False,
    role: Annotated[
        TestRole | None,
        typer.Option(
            "--role", metavar="ROLE", help="Which examples of a --task: confirm or dev (default: confirm)."
        ),
    ] = None,
    limit: ExampleLimit = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="Examples that are answered together (default: by length, as many as fit).",
        ),
    ] = None,
    max_length: TextTokens = None,
    max_new_tokens: AnswerTokens = None,
    dtype: Annotated[
        Precision | None,
        typer.Option(
            "--dtype",
            metavar="NAME",
            help="Of the base's weights: auto, float32, bfloat16, float16 (default: auto).",
        ),
    ] = None,
    quantization: BasePacked = None,
    revision: BaseRevision = None,
    tokenizer: Tokenizer = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: auto).")
    ] = None,
    engine: Engine = None,
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
    from gradience.evaluate.request import request_of
    from gradience.evaluate.verb import margin_of
    from gradience.tasks.user_code import allowing

    given = {
        "adapters": tuple(adapters or ()) or None,
        "base_model": base_model,
        "data": data,
        "task": task,
        "options": options_of(option or []) or None,
        "output": output,
        "margin": None if margin is None else margin_of(margin),
        "with_base": with_base or None,
        "role": role and role.value,
        "limit": limit,
        "batch_size": batch_size,
        "max_length": max_length,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype and dtype.value,
        "quantization": quantization and quantization.value,
        "revision": revision,
        "tokenizer": tokenizer and tokenizer.value,
        "device": device,
        "engine": engine,
    }
    texts = shows_texts(html, no_texts=no_texts)
    name_engine_python(engine_python)
    request = request_of({name: value for name, value in given.items() if value is not None}, config)
    with allowing(allow_code):
        if request.output is None and not (dry_run or preview):
            raise UsageError(
                "no --output given", code="no-output", hint="give --output DIR, or --dry-run to see the plan"
            )
        need_libraries()
        if preview:
            return _preview(request, as_json=json, html=html, texts=texts)
        inputs = read_inputs(request)
        if request.output is None or dry_run:
            return _forecast(inputs, as_json=json, html=html)
        return _evaluate(inputs, request.output, as_json=json, html=html, texts=texts, quiet=quiet)


def options_of(given: list[str]) -> dict[str, object]:
    """Return `KEY=VALUE` texts as options, each value as YAML reads it. Raises UsageError (`bad-option`)."""
    from gradience.adapters.strict_yaml import loads

    options: dict[str, object] = {}
    for each in given:
        key, sign, value = each.partition("=")
        if not sign or not key:
            raise UsageError(
                f"--option {each}: no KEY=VALUE",
                code="bad-option",
                hint="such as --option text_column=review",
            )
        options[key] = loads(value.encode(), f"--option {key}")
    return options


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


def _preview(request: Request, *, as_json: bool, html: Path | None, texts: bool) -> int:
    from gradience.evaluate.preview import preview_evaluation, read_preview
    from gradience.report.forecast import preview_text

    inputs = read_preview(request)
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
