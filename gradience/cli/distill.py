"""`gradience distill`: a smaller adapter, trained for a few steps to answer as its original does."""

from __future__ import annotations

from shlex import quote

from gradience.calibrate.settings import DistillSettings
from gradience.cli.console import show_note, show_written
from gradience.cli.options import DryRun, require_files
from gradience.cli.output import Output, command_line
from gradience.settings import required_output


def distill(settings: DistillSettings, plan: DryRun, out: Output) -> None:
    """The prompts need no labels: the original's own probabilities are what is learned. Its KL divergence from the
    original is measured before and after on prompts that were held out; where nothing improves, the adapter is
    written as it was given.

    Example:

      gradience distill ./smaller --teacher ./my_adapter --prompts rows.jsonl -o ./distilled
    """
    require_files(settings.prompts)
    from gradience.distill import verb
    from gradience.distill.inputs import read_distill_inputs

    output = None if plan.dry_run else required_output(settings.output, "DIR")
    if output is None:
        out.refuse_page()
    else:
        verb.check_distill_output(output, settings)
    inputs = read_distill_inputs(settings)
    for note in inputs.student.notes:
        show_note(note)
    if output is None:
        out.show_aloud(verb.forecast_distill(inputs))
        return
    from gradience.card import card_of
    from gradience.cli.progress import ProgressBar

    with ProgressBar(f"distilling {settings.adapter}", quiet=out.quiet, announce=True) as progress:
        report = verb.distill(inputs, output, progress=progress, card=card_of, command=command_line())
    out.show(report, teacher=quote(str(settings.teacher)), output=quote(str(output)))
    if not out.quiet:
        show_written(output)
