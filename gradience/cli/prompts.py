"""Verbs that run a model on prompts without labels: calibrate, distill."""

from dataclasses import replace

import gradience
from gradience.calibrate.settings import CalibrateSettings, DistillSettings
from gradience.cli.options import require_files
from gradience.cli.output import LayersOutput, ReportOutput


def calibrate(settings: CalibrateSettings, out: LayersOutput) -> None:
    """No labels needed: components are scored by how much they change the adapted model's own output. With the written
    file, `gradience compress` chooses directions and ranks by these scores. The screen ends with the KL divergence that
    is predicted for each size.

    Examples:

      gradience calibrate ./my_adapter --prompts rows.jsonl -o calibration.safetensors

      gradience shrink ./my_adapter --calibration calibration.safetensors --data examples.jsonl
    """
    require_files(settings.prompts)
    out.refuse_page(dry_run=settings.dry_run)
    label = f"calibrating {settings.adapter}"
    result = out.run(gradience.calibrate_adapter, settings, label, announce=not settings.dry_run)
    if not isinstance(result, gradience.Calibration):
        out.show_aloud(result)
        return
    base = () if settings.base_model is None else (str(settings.base_model),)
    out.show(result.report, paths=(str(settings.adapter), str(settings.output), *base))
    out.written(settings.output)


def distill(settings: DistillSettings, out: ReportOutput) -> None:
    """The prompts need no labels: the smaller adapter learns the reference adapter's probabilities. The KL divergence
    between the two is measured on held-out prompts before and after. If nothing improves, the adapter is written
    unchanged.

    Example:

      gradience distill ./smaller --teacher ./my_adapter --prompts rows.jsonl -o ./distilled
    """
    require_files(settings.prompts)
    from gradience.card import card_of

    out.refuse_page(dry_run=settings.dry_run)
    settings, label = replace(settings, card=card_of), f"distilling {settings.adapter}"
    result = out.run(gradience.distill_adapter, settings, label, announce=not settings.dry_run)
    if not isinstance(result, gradience.DistillReport):
        out.show_aloud(result)
        return
    out.show(result, paths=(str(settings.teacher), str(settings.output)))
    out.written(settings.output)
