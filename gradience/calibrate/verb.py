"""`calibrate_adapter`: what `gradience calibrate` does, as one function: read, load, measure in two passes, write."""

from dataclasses import replace
from pathlib import Path

from gradience.adapters.formats import open_adapter
from gradience.audit.adapter import audit_opened
from gradience.calibrate.inputs import CalibrateInputs, read_inputs
from gradience.calibrate.settings import CalibrateSettings
from gradience.files.whole import already_exists
from gradience.plan.compression import curve, with_calibration
from gradience.plan.modules import modules_of
from gradience.reports.calibration import Calibration, CalibrationForecast
from gradience.settings import public, required_output


@public(CalibrateSettings)
def calibrate_adapter(settings: CalibrateSettings) -> Calibration | CalibrationForecast:
    """Measure on prompts how each component of an adapter changes the model's output, and write it to `output`.

    >>> calibration = calibrate_adapter(
    ...     "my_adapter", "measured.safetensors", prompts="rows.jsonl", base_model="embedded:minilm"
    ... )
    >>> len(calibration.modules), calibration.report.selection_rows  # a few hundred rows are better
    (16, 4)
    >>> compress_adapter("my_adapter", calibration=calibration, reduction=0.5, dry_run=True).prediction.rows
    4

    A dry run returns the cost estimate. Keywords, named like the flags of `gradience calibrate`:

    Raises InputError if adapter, rows or base cannot be used, UsageError for contradictory options,
    MissingExtra, OutputError for disk and memory errors.
    """
    output = None if settings.dry_run else required_output(settings.output)
    if output is not None and output.exists() and not settings.force:
        raise already_exists(output)
    with open_adapter(Path(settings.adapter), tokenizer=settings.tokenizer != "base") as opened:
        inputs = read_inputs(settings, opened)
        if output is None:
            from gradience.calibrate.inputs import forecast_calibration

            return forecast_calibration(inputs)
        calibrate(inputs, output)
    return Calibration.read(output)


def calibrate(inputs: CalibrateInputs, output: Path) -> None:
    """Calibrate on what was read, and write the file."""
    from gradience.calibrate.measure import measured
    from gradience.evaluate.engines.base import memory_errors
    from gradience.evaluate.engines.transformers.engine import memory

    with memory_errors(batches=True), memory():
        calibration = measured(inputs)
    facts, audited = calibration.report, audit_opened(inputs.adapter)
    if not facts.routing:
        sizes = curve(with_calibration(audited, modules_of(audited), calibration), facts)
        calibration = replace(calibration, report=facts.model_copy(update={"sizes": sizes}))
    calibration.write(output)
