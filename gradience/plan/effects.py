"""An audit with what a calibration says: importance of modules and layers, weighted ranks, predicted KL. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from gradience.plan.calibrated import curve, with_calibration
from gradience.plan.modules import Module, modules_of
from gradience.ranks import percentile
from gradience.reports.audit import AuditReport
from gradience.reports.base.prediction import RATIOS, LayerEffect, MeasuredEffects, ModuleEffect
from gradience.reports.calibration import Calibration

OUTSIDE = "(outside the layers)"
PREDICTED_KL = (
    "predicted KL divergence of each size from a calibration on prompts: to second order what leaving directions out"
    " does to the model's output. Evaluate what it suggests"
)


def with_effects(report: AuditReport, calibration: Calibration) -> AuditReport:
    """The report with the effects that were measured, and that evidence first.

    Raises UsageError (`other-calibration`) for the calibration of another adapter.
    """
    modules = with_calibration(report, modules_of(report), calibration)
    facts = calibration.report
    ranks = [row.weighted_energy_rank_90 for row in facts.modules]
    effects = MeasuredEffects(
        calibration_sha256=calibration.sha256,
        rows=facts.rows - facts.selection_rows,
        scored_tokens=facts.scored_tokens,
        excluded_modules=sum(module.effects is None for module in modules),
        weighted_energy_rank_90_p50=float(percentile(ranks, 50)),
        weighted_energy_rank_90_p90=float(percentile(ranks, 90)),
        curve=() if facts.routing else curve(modules),
        modules=tuple(
            ModuleEffect(
                name=row.name, importance=row.importance, weighted_energy_rank_90=row.weighted_energy_rank_90
            )
            for row in facts.modules
        ),
        by_layer=tuple(_layers(report, modules)),
        ratios=RATIOS,
        routing=facts.routing,
    )
    evidence = {"predicted_kl": PREDICTED_KL, **report.evidence}
    return report.model_copy(update={"effects": effects, "evidence": evidence})


def _layers(report: AuditReport, modules: Sequence[Module]) -> Iterable[LayerEffect]:
    """The layers in their order, each with what leaving out all of its modules is predicted to do."""
    layer_of = {row.name: row.layer or OUTSIDE for row in report.layers}
    grouped: dict[str, list[Module]] = defaultdict(list)
    for module in modules:
        if module.effects is not None:
            grouped[layer_of[module.name]].append(module)
    for layer, members in grouped.items():
        effects = [module.effects for module in members if module.effects is not None]
        change = np.sum([each.predicting.sum(axis=1) for each in effects], axis=0)
        yield LayerEffect(layer=layer, importance=float(np.square(change).sum() / 2 / effects[0].tokens))
