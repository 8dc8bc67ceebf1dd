"""`gradience shrink`: the smallest adapter that is shown to be as good on your own examples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.engine import name_engine_python
from gradience.cli.evaluate import options_of
from gradience.cli.exit_codes import ExitCode
from gradience.cli.options import (
    AdaptersBase,
    AllowCode,
    AnswerTokens,
    BasePacked,
    BasePrecision,
    BaseRevision,
    Data,
    Device,
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
    from gradience.artifacts.shrink import ShrinkReport
    from gradience.shrink.plan import Prepared


def shrink(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of a LoRA adapter.")],
    base_model: AdaptersBase = None,
    data: Data = None,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="NAME", help="A task by its name, such as reviews or gsm8k."),
    ] = None,
    option: TaskOptions = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder of the smaller adapter and its evidence; an interrupted search resumes there.",
        ),
    ] = None,
    margin: Annotated[
        str,
        typer.Option(
            "--margin", metavar="M", help="The loss that must be excluded, as a share: 0.025 is 2.5 points."
        ),
    ] = "0.025",
    rungs: Annotated[
        str | None,
        typer.Option(
            "--rungs",
            metavar="RANKS",
            help="Ranks to test, such as 8,4,2,1 (default: halvings of the audit's p90 suggestion).",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Of `gradience calibrate`: rungs keep what matters to the output.",
        ),
    ] = None,
    heal_prompts: Annotated[
        Path | None,
        typer.Option(
            "--heal-prompts",
            metavar="FILE",
            help="Rows without labels: the smallest rung, healed on them, is one more rung.",
        ),
    ] = None,
    role: Annotated[
        TestRole, typer.Option("--role", metavar="ROLE", help="Which examples of a --task: confirm or dev.")
    ] = TestRole.confirm,
    limit: ExampleLimit = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", min=1, help="Examples that are answered together."),
    ] = None,
    max_length: TextTokens = None,
    max_new_tokens: AnswerTokens = None,
    dtype: BasePrecision = Precision.auto,
    quantization: BasePacked = None,
    revision: BaseRevision = None,
    tokenizer: Tokenizer = None,
    device: Device = "auto",
    engine: Engine = None,
    engine_python: EnginePython = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the inputs; print rungs, memory and the margin that can be shown."
        ),
    ] = False,
    allow_code: AllowCode = False,
    json: ReportAsJson = False,
    html: Html = None,
    no_texts: NoTexts = False,
    quiet: Quiet = False,
) -> int:
    """Rungs are smaller copies, tested from the largest down on the same examples until one is not shown to hold.

    Exit codes: 0 a smaller one is shown to hold, 8 none is shown, 1 the first one tested is inferior, 4 one could not
    be evaluated.

    Examples:

      gradience shrink ./my_adapter --base-model embedded:minilm --task reviews -o shrunk

      gradience shrink ./my_adapter -b ./base --data rows.jsonl --rungs 16,8,4 --margin 0.05 -o shrunk
    """
    from gradience.artifacts.calibration import Calibration
    from gradience.cli.bench_run import need_libraries
    from gradience.evaluate.request import request_of
    from gradience.evaluate.verb import margin_of
    from gradience.shrink.plan import prepare
    from gradience.shrink.verb import refuse_output
    from gradience.tasks.user_code import allowing

    texts = shows_texts(html, no_texts=no_texts)
    given = {
        "adapters": (adapter,),
        "base_model": base_model,
        "data": data,
        "task": task,
        "options": options_of(option or []),
        "margin": margin_of(margin),
        "role": role.value,
        "limit": limit,
        "batch_size": batch_size,
        "max_length": max_length,
        "max_new_tokens": max_new_tokens,
        "dtype": dtype.value,
        "quantization": quantization and quantization.value,
        "revision": revision,
        "tokenizer": tokenizer and tokenizer.value,
        "device": device,
        "engine": engine,
    }
    name_engine_python(engine_python)
    with allowing(allow_code):
        if output is None and not dry_run:
            raise UsageError(
                "no --output given", code="no-output", hint="give --output DIR, or --dry-run to see the plan"
            )
        request = request_of({name: value for name, value in given.items() if value is not None})
        need_libraries()
        if output is not None and not dry_run:
            refuse_output(adapter, output)
        measured = None if calibration is None else Calibration.read(calibration)
        prepared = prepare(request, ranks_of(rungs), calibration=measured, heal_prompts=heal_prompts)
        if output is None or dry_run:
            return _forecast(prepared, as_json=json, html=html)
        return _shrink(prepared, output, as_json=json, html=html, texts=texts, quiet=quiet)


def ranks_of(text: str | None) -> tuple[int, ...] | None:
    """Return `8,4,2,1` as ranks; None for None. Raises UsageError (`bad-rank`)."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 7 and int(part) for part in parts):
        raise UsageError(
            f"--rungs {text}: not ranks", code="bad-rank", hint="whole numbers from 1, such as 8,4,2,1"
        )
    return tuple(map(int, parts))


def code_of(report: ShrinkReport) -> ExitCode:
    """Return 4 where a rung could not be evaluated, 0 where one is shown to hold, 1 for an inferior one, else 8."""
    statuses = {rung.status for rung in report.rungs}
    if "not evaluated" in statuses:
        return ExitCode.INCOMPLETE
    if report.smallest is not None:
        return ExitCode.DONE
    return ExitCode.GATE_FAILED if "inferior" in statuses else ExitCode.INCONCLUSIVE


def _forecast(prepared: Prepared, *, as_json: bool, html: Path | None) -> int:
    from gradience.report.shrink import shrink_forecast_text
    from gradience.shrink.forecast import forecast_shrink

    print_result(shrink_forecast_text, forecast_shrink(prepared), as_json=as_json, html=html)
    return ExitCode.DONE


def _shrink(
    prepared: Prepared, output: Path, *, as_json: bool, html: Path | None, texts: bool, quiet: bool
) -> int:
    from gradience.cli.console import beneath, show_note, show_written
    from gradience.cli.progress import StageProgress
    from gradience.evaluate.forecast import margins_of
    from gradience.report.card import card_of
    from gradience.report.evaluation import showable
    from gradience.report.faces import to_markdown
    from gradience.report.shrink import shrink_text
    from gradience.shrink.verb import ADAPTER, DOCUMENT, SHRUNK, Pages
    from gradience.shrink.verb import shrink as run

    for note in prepared.inputs.notes:
        show_note(note)
    if not quiet and not prepared.inputs.compares_nll:
        examples = len(prepared.inputs.examples)
        print(showable(examples, margins_of(examples, 1)), file=beneath(sys.stderr), flush=True)
    with StageProgress(quiet=quiet) as watcher:
        report = run(prepared, output, watcher, pages=Pages(to_markdown, card_of), command=command_line())
    print_result(shrink_text, report, as_json=as_json, quiet=quiet, html=html, folder=output, texts=texts)
    if not quiet:
        adapter = "" if report.smallest is None else f", {ADAPTER}/"
        show_written(f"{output / SHRUNK}, {DOCUMENT}{adapter}")
    return code_of(report)
