"""`gradience distill`: a smaller adapter, trained for a few steps to answer as its original does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradience.calibrate.settings import DistillSettings
from gradience.cli.console import show_note
from gradience.cli.flags import with_flags
from gradience.cli.options import Quiet, ReportAsJson
from gradience.cli.output import command_line, print_result
from gradience.cli.page import Html, page_of_a_report
from gradience.settings import required_output, settings_of

if TYPE_CHECKING:
    from gradience.distill.inputs import DistillInputs


@with_flags(DistillSettings)
def distill(
    given: dict[str, Any],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the inputs and print what distillation does and needs.")
    ] = False,
    json: ReportAsJson = False,
    html: Html = None,
    quiet: Quiet = False,
) -> None:
    """The prompts need no labels: the original's own probabilities are what is learned. Its KL divergence from the
    original is measured before and after on prompts that were held out; where nothing improves, the adapter is
    written as it was given.

    Example:

      gradience distill ./smaller --teacher ./my_adapter --prompts rows.jsonl -o ./distilled
    """
    from gradience.distill.inputs import read_distill_inputs
    from gradience.distill.verb import check_distill_output

    settings = settings_of(DistillSettings, given)
    output = None if dry_run else required_output(settings.output, "DIR")
    if output is not None:
        check_distill_output(output, settings)
    page_of_a_report(html, dry_run=dry_run)
    inputs = read_distill_inputs(settings)
    for note in inputs.student.notes:
        show_note(note)
    if output is None:
        _forecast(inputs, as_json=json)
    else:
        _distill(inputs, output, as_json=json, html=html, quiet=quiet)


def _forecast(inputs: DistillInputs, *, as_json: bool) -> None:
    from gradience.distill.forecast import forecast_distill
    from gradience.report.distill import distill_forecast_text

    print_result(distill_forecast_text, forecast_distill(inputs), as_json=as_json)


def _distill(inputs: DistillInputs, output: Path, *, as_json: bool, html: Path | None, quiet: bool) -> None:
    from gradience.cli.console import show_written
    from gradience.cli.progress import ProgressBar
    from gradience.distill.verb import distill as run
    from gradience.report.card import card_of
    from gradience.report.distill import distill_text

    with ProgressBar(f"distilling {inputs.request.adapter}", quiet=quiet, announce=True) as progress:
        report = run(inputs, output, progress=progress, card=card_of, command=command_line())
    print_result(distill_text, report, as_json=as_json, quiet=quiet, html=html)
    if not quiet:
        show_written(output)
