"""`gradience calibrate`: what each component of an adapter does to the model's output, on your prompts."""

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
    Layers,
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
    from gradience.calibrate.inputs import Inputs


def calibrate(
    adapter: Annotated[Path, typer.Argument(metavar="ADAPTER", help="Folder of save_pretrained().")],
    prompts: Prompts,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The calibration (a .safetensors file)."),
    ] = None,
    base_model: AdaptersBase = None,
    limit: FirstRows = None,
    completion_tokens: Annotated[
        int,
        typer.Option(
            "--completion-tokens",
            metavar="N",
            min=1,
            help="Length of the completions that are sampled for rows without one.",
        ),
    ] = 64,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, help="Of the directions and completions that are drawn."),
    ] = 42,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="N", min=1, help="Rows that are computed together.")
    ] = 8,
    max_length: RowTokens = None,
    dtype: BasePrecision = Precision.auto,
    quantization: BasePacked = None,
    revision: BaseRevision = None,
    tokenizer: Tokenizer = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the inputs and print what a calibration needs.")
    ] = False,
    layers: Layers = False,
    json: ReportAsJson = False,
    html: Html = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
) -> None:
    """The prompts need no gold labels: what is scored is drawn from the adapted model. The file that is written lets
    `gradience compress` choose directions and ranks by the model's output, and predict the KL divergence of every
    size before anything is evaluated.

    Examples:

      gradience calibrate ./my_adapter --prompts rows.jsonl -o calibration.safetensors

      gradience compress ./my_adapter --calibration calibration.safetensors --max-kl 0.01 -o ./smaller
    """
    _check_output(output, dry_run=dry_run, force=force)
    page_of_a_report(html, dry_run=dry_run)
    from gradience.calibrate.inputs import Request, read_inputs
    from gradience.cli.console import show_note

    inputs = read_inputs(
        Request(
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
    )
    for note in inputs.notes:
        show_note(note)
    if output is None or dry_run:
        _forecast(inputs, as_json=json)
    else:
        _calibrate(inputs, output, as_json=json, html=html, layers=layers, quiet=quiet)


def _check_output(output: Path | None, *, dry_run: bool, force: bool) -> None:
    if output is None and not dry_run:
        raise UsageError(
            "no --output given", code="no-output", hint="give --output FILE, or --dry-run to see the needs"
        )
    if output is not None and output.exists() and not force and not dry_run:
        raise UsageError(
            f"{output} exists already",
            code="output-exists",
            hint="choose another --output, or replace it with --force",
        )


def _forecast(inputs: Inputs, *, as_json: bool) -> None:
    from gradience.calibrate.forecast import forecast_calibration
    from gradience.report.calibration import calibration_forecast_text

    print_result(calibration_forecast_text, forecast_calibration(inputs), as_json=as_json)


def _calibrate(
    inputs: Inputs, output: Path, *, as_json: bool, html: Path | None, layers: bool, quiet: bool
) -> None:
    from gradience.calibrate.verb import calibrate as run
    from gradience.cli.console import show_written
    from gradience.cli.progress import ProgressBar
    from gradience.report.calibration import calibration_text

    with ProgressBar(f"calibrating {inputs.request.adapter}", quiet=quiet, announce=True) as progress:
        calibration = run(inputs, output, progress=progress, command=command_line())
    print_result(calibration_text, calibration.report, as_json=as_json, quiet=quiet, html=html, layers=layers)
    if not quiet:
        show_written(output)
