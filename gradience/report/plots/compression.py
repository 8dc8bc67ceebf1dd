"""What smaller adapters are made of and predicted to cost: ranks before and after, and the curve of predicted KL."""

from __future__ import annotations

from collections import Counter

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.compression import CompressionPlan, CompressionReport
from gradience.report.numbers import count, sig
from gradience.report.plots.plot import Axis, BarsOf, Lines, Plot, Points, Series


def ranks_plot(report: CompressionReport | CompressionPlan) -> Plot | None:
    """Return how many modules have which rank, before and after."""
    before = Counter(row.old_rank for row in report.modules)
    after = Counter(row.new_rank for row in report.modules)
    ranks = sorted(before | after)
    if not ranks:
        return None
    places = list(range(len(ranks)))
    return Plot(
        "ranks",
        "Ranks before and after",
        Axis("rank", scale="categories", categories=[str(rank) for rank in ranks]),
        Axis("modules", low=0.0),
        [
            BarsOf("before", places, [before[rank] for rank in ranks], tone="dim"),
            BarsOf("after", places, [after[rank] for rank in ranks], tone="accent"),
        ],
        f"Ranks of {count(len(report.modules))} modules: {min(before)} to {max(before)} before,"
        f" {min(after)} to {max(after)} after.",
    )


def kl_plot(report: AuditReport | CompressionPlan) -> Plot | None:
    """Return the predicted KL at each size, of calibrated components and of those of the SVD; nothing without a
    calibration."""
    effects = report.effects if isinstance(report, AuditReport) else None
    curve = report.curve if isinstance(report, CompressionPlan) else effects.curve if effects else ()
    curve = tuple(sorted(curve, key=lambda point: point.params))
    if not curve:
        return None
    sizes = [point.params for point in curve]
    series: list[Series] = [
        Lines("calibrated", sizes, [point.calibrated_kl or None for point in curve], marked=True),
        Lines(
            "SVD, one rank for all",
            sizes,
            [point.svd_kl or None for point in curve],
            marked=True,
            dashed=True,
        ),
    ]
    planned = ""
    if isinstance(report, CompressionPlan) and report.prediction is not None:
        series.append(Points("this plan", [report.new_params], [report.prediction.kl or None], tone="bad"))
        planned = f"; this plan has {count(report.new_params)} and {sig(report.prediction.kl)}"
    smallest = curve[0]
    return Plot(
        "kl",
        "Predicted KL by size",
        Axis("LoRA parameters", scale="log"),
        Axis("predicted KL", "nats per scored token", "log"),
        series,
        f"At {count(smallest.params)} LoRA parameters the predicted KL is {sig(smallest.calibrated_kl)} nats per scored"
        f" token calibrated, and {sig(smallest.svd_kl)} by SVD{planned}.",
    )
