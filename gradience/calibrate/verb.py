"""`calibrate_adapter`: what `gradience calibrate` does, as one function: read, load, measure in two passes, write."""

from __future__ import annotations

from pathlib import Path

from gradience.calibrate.inputs import Inputs, read_inputs
from gradience.calibrate.settings import CalibrateSettings
from gradience.errors import OutputError
from gradience.files.whole import already_exists
from gradience.progress import Progress
from gradience.reports.base.run import Stopwatch
from gradience.reports.calibration import Calibration
from gradience.settings import public, required_output


@public(CalibrateSettings)
def calibrate_adapter(settings: CalibrateSettings) -> Calibration:
    """Measure on prompts what each component of an adapter does to the model's output, and write it to `output`.

    >>> calibration = calibrate_adapter(
    ...     "my_adapter", "measured.safetensors", prompts="rows.jsonl", base_model="embedded:minilm"
    ... )
    >>> len(calibration.modules), calibration.report.selection_rows  # better with some hundred rows
    (16, 4)
    >>> compress_adapter("my_adapter", calibration=calibration, reduction=0.5, dry_run=True).prediction.rows
    4

    The keywords are the flags of `gradience calibrate`:

    Raises InputError if adapter, rows or base cannot be used, UsageError for what makes no sense together,
    MissingExtra, OutputError when disk or memory refuse.
    """
    output = new_file(settings)
    return calibrate(read_inputs(settings), output, progress=settings.progress)


def new_file(settings: CalibrateSettings) -> Path:
    """Return where the calibration is written. Raises UsageError (`no-output`, `output-exists`)."""
    output = required_output(settings.output)
    if output.exists() and not settings.force:
        raise already_exists(output)
    return output


def calibrate(
    inputs: Inputs, output: Path, *, progress: Progress | None = None, command: str = ""
) -> Calibration:
    """Calibrate on what was read, and write the file."""
    import torch

    from gradience.calibrate.measure import measured

    watch = Stopwatch(command)
    try:
        calibration = measured(inputs, watch, progress)
    except torch.OutOfMemoryError as error:
        raise OutputError(
            f"the device has not enough memory: {str(error).splitlines()[0]}",
            code="out-of-memory",
            hint=f"a smaller --batch-size than {inputs.request.batch_size}, or --quantization nf4",
        ) from None
    calibration.write(output)
    return Calibration.read(output)
