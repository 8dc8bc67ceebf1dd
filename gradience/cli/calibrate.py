"""`gradience calibrate`: what each component of an adapter does to the model's output, on your prompts."""

from __future__ import annotations

from shlex import quote
from typing import Any

from gradience.calibrate.settings import CalibrateSettings
from gradience.cli.console import show_note, show_written
from gradience.cli.options import DryRun, require_files
from gradience.cli.output import LayersOutput, command_line


def calibrate(settings: CalibrateSettings, plan: DryRun, out: LayersOutput) -> None:
    """The prompts need no gold labels: what is scored is drawn from the adapted model. The file that is written lets
    `gradience compress` choose directions and ranks by the model's output, and predict the KL divergence of every
    size before anything is evaluated.

    Examples:

      gradience calibrate ./my_adapter --prompts rows.jsonl -o calibration.safetensors

      gradience compress ./my_adapter --calibration calibration.safetensors --max-kl 0.01 -o ./smaller
    """
    require_files(settings.prompts)
    from gradience.calibrate import verb
    from gradience.calibrate.inputs import read_inputs

    output = None if plan.dry_run else verb.new_file(settings)
    if output is None:
        out.refuse_page()
    inputs = read_inputs(settings)
    for note in inputs.notes:
        show_note(note)
    if output is None:
        from gradience.calibrate.forecast import forecast_calibration

        out.show_aloud(forecast_calibration(inputs))
        return
    from gradience.cli.progress import ProgressBar

    with ProgressBar(f"calibrating {settings.adapter}", quiet=out.quiet, announce=True) as progress:
        calibration = verb.calibrate(inputs, output, progress=progress, command=command_line())
    names: dict[str, Any] = {"path": quote(str(settings.adapter)), "output": quote(str(output))}
    out.show(calibration.report, layers=out.layers, **names)
    if not out.quiet:
        show_written(output)
