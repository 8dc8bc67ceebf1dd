"""`gradience calibrate`: what each component of an adapter does to the model's output, on your prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradience.calibrate.settings import CalibrateSettings
from gradience.cli.console import show_note
from gradience.cli.flags import with_flags
from gradience.cli.options import Layers, Quiet, ReportAsJson
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, page_of_a_report
from gradience.errors import UsageError
from gradience.settings import required_output, settings_of

if TYPE_CHECKING:
    from gradience.calibrate.inputs import Inputs


@with_flags(CalibrateSettings)
def calibrate(
    given: dict[str, Any],
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
    from gradience.calibrate.inputs import read_inputs

    settings = settings_of(CalibrateSettings, given)
    output = None if dry_run else required_output(settings.output)
    if output is not None and output.exists() and not force:
        raise UsageError(
            f"{output} exists already",
            code="output-exists",
            hint="choose another --output, or replace it with --force",
        )
    page_of_a_report(html, dry_run=dry_run)
    inputs = read_inputs(settings)
    for note in inputs.notes:
        show_note(note)
    if output is None:
        _forecast(inputs, as_json=json)
    else:
        _calibrate(inputs, output, as_json=json, html=html, layers=layers, quiet=quiet)


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
