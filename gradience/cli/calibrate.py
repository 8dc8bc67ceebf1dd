"""`gradience calibrate`: what each component of an adapter does to the model's output, on your prompts."""

from gradience.calibrate.settings import CalibrateSettings
from gradience.cli.options import require_files
from gradience.cli.output import LayersOutput


def calibrate(settings: CalibrateSettings, out: LayersOutput) -> None:
    """No labels needed: components are scored by how much they change the adapted model's own output. With the written
    file, `gradience compress` chooses directions and ranks by these scores. The screen ends with the KL divergence that
    is predicted for each size.

    Examples:

      gradience calibrate ./my_adapter --prompts rows.jsonl -o calibration.safetensors

      gradience shrink ./my_adapter --calibration calibration.safetensors --data examples.jsonl
    """
    require_files(settings.prompts)
    from gradience.calibrate.verb import calibrate_adapter
    from gradience.reports.calibration import Calibration

    out.refuse_page(dry_run=settings.dry_run)
    label = f"calibrating {settings.adapter}"
    result = out.run(calibrate_adapter, settings, label, announce=not settings.dry_run)
    if not isinstance(result, Calibration):
        out.show_aloud(result)
        return
    base = () if settings.base_model is None else (str(settings.base_model),)
    out.show(result.report, paths=(str(settings.adapter), str(settings.output), *base))
    out.written(settings.output)
