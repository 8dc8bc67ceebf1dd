"""`gradience distill`: a smaller adapter, trained for a few steps to match its reference adapter."""

from dataclasses import replace

from gradience.calibrate.settings import DistillSettings
from gradience.cli.options import require_files
from gradience.cli.output import ReportOutput


def distill(settings: DistillSettings, out: ReportOutput) -> None:
    """The prompts need no labels: the smaller adapter learns the reference adapter's probabilities. The KL divergence
    between the two is measured on held-out prompts before and after. If nothing improves, the adapter is written
    unchanged.

    Example:

      gradience distill ./smaller --teacher ./my_adapter --prompts rows.jsonl -o ./distilled
    """
    require_files(settings.prompts)
    from gradience.card import card_of
    from gradience.distill.verb import distill_adapter
    from gradience.reports.distill import DistillReport

    out.refuse_page(dry_run=settings.dry_run)
    settings, label = replace(settings, card=card_of), f"distilling {settings.adapter}"
    result = out.run(distill_adapter, settings, label, announce=not settings.dry_run)
    if not isinstance(result, DistillReport):
        out.show_aloud(result)
        return
    out.show(result, paths=(str(settings.teacher), str(settings.output)))
    out.written(settings.output)
