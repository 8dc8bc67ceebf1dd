"""`gradience heal`: a smaller adapter, trained for a few steps to answer as its original does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradience.cli.options import (
    AdaptersBase,
    BasePacked,
    BasePrecision,
    BaseRevision,
    Device,
    FirstRows,
    Precision,
    Prompts,
    Quiet,
    ReportAsJson,
    RowTokens,
    Tokenizer,
)
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, page_of_a_report
from gradience.errors import UsageError

if TYPE_CHECKING:
    from gradience.calibrate.heal.inputs import HealInputs, HealRequest


def heal(
    adapter: Annotated[Path, typer.Argument(metavar="SMALL", help="Folder of the smaller adapter.")],
    teacher: Annotated[
        Path,
        typer.Option("--teacher", metavar="ORIGINAL", help="Folder of the adapter that it was made from."),
    ],
    prompts: Prompts,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Where the healed adapter is written."),
    ] = None,
    base_model: AdaptersBase = None,
    steps: Annotated[
        int,
        typer.Option(
            "--steps", metavar="N", min=1, help="At most; a tenth of those of the training is a good start."
        ),
    ] = 100,
    lr: Annotated[
        float,
        typer.Option(
            "--lr",
            metavar="RATE",
            help="Of AdamW at most; it rises over a fifth of the steps, then falls to 0.",
        ),
    ] = 3e-4,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Rows of a step.")] = 8,
    limit: FirstRows = None,
    completion_tokens: Annotated[
        int,
        typer.Option(
            "--completion-tokens",
            metavar="N",
            min=1,
            help="Length of the completions that the original writes for rows without one.",
        ),
    ] = 64,
    seed: Annotated[
        int,
        typer.Option(
            "--seed", metavar="N", min=0, help="Of the split and order of the rows, and completions."
        ),
    ] = 42,
    max_length: RowTokens = None,
    dtype: BasePrecision = Precision.auto,
    quantization: BasePacked = None,
    revision: BaseRevision = None,
    tokenizer: Tokenizer = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the inputs and print what healing does and needs.")
    ] = False,
    json: ReportAsJson = False,
    html: Html = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing adapter folder.")] = False,
    quiet: Quiet = False,
) -> None:
    """The prompts need no labels: the original's own probabilities are what is learned. Its KL divergence from the
    original is measured before and after on prompts that were held out; where nothing improves, the adapter is
    written as it was given.

    Example:

      gradience heal ./smaller --teacher ./my_adapter --prompts rows.jsonl -o ./healed
    """
    from gradience.calibrate.heal.inputs import HealRequest, read_heal_inputs
    from gradience.calibrate.inputs import Request
    from gradience.cli.console import show_note

    student = Request(
        adapter=adapter,
        prompts=prompts,
        base_model=base_model,
        limit=limit,
        completion_tokens=completion_tokens,
        seed=seed,
        batch_size=batch_size,
        max_length=max_length,
        dtype=dtype.value,
        quantization="nf4" if quantization else None,
        revision=revision,
        tokenizer=None if tokenizer is None else tokenizer.value,
        device=device,
    )
    request = HealRequest(student=student, teacher=teacher, steps=steps, lr=lr)
    _check_output(output, request, dry_run=dry_run, force=force)
    page_of_a_report(html, dry_run=dry_run)
    inputs = read_heal_inputs(request)
    for note in inputs.student.notes:
        show_note(note)
    if output is None or dry_run:
        _forecast(inputs, as_json=json)
    else:
        _heal(inputs, output, as_json=json, html=html, force=force, quiet=quiet)


def _check_output(output: Path | None, request: HealRequest, *, dry_run: bool, force: bool) -> None:
    from gradience.calibrate.heal.verb import check_heal_output

    if output is None and not dry_run:
        raise UsageError(
            "no --output given", code="no-output", hint="give --output DIR, or --dry-run to see the plan"
        )
    if output is not None and not dry_run:
        check_heal_output(output, request, force=force)


def _forecast(inputs: HealInputs, *, as_json: bool) -> None:
    from gradience.calibrate.heal.forecast import forecast_heal
    from gradience.report.heal import heal_forecast_text

    print_result(heal_forecast_text, forecast_heal(inputs), as_json=as_json)


def _heal(
    inputs: HealInputs, output: Path, *, as_json: bool, html: Path | None, force: bool, quiet: bool
) -> None:
    from gradience.calibrate.heal.verb import heal as run
    from gradience.cli.console import show_written
    from gradience.cli.progress import ProgressBar
    from gradience.report.card import card_of
    from gradience.report.heal import heal_text

    with ProgressBar(f"healing {inputs.student.request.adapter}", quiet=quiet, announce=True) as progress:
        report = run(inputs, output, progress=progress, force=force, card=card_of, command=command_line())
    print_result(heal_text, report, as_json=as_json, quiet=quiet, html=html)
    if not quiet:
        show_written(output)
