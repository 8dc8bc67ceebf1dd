"""How much of an audit is shown, and what its sections share."""

from __future__ import annotations

from dataclasses import dataclass

from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base import view
from gradience.reports.base.numbers import DIGITS, digits_for


@dataclass(frozen=True, slots=True)
class View(view.View):
    """What the sections show of an audit."""

    most_spare: int = 5
    least_spare: int = 5
    """Modules listed at either end."""
    map_columns: int = 128
    """Columns of the widest map."""


DOCUMENT = View()


def trained_layers(report: AuditReport) -> list[LayerAudit]:
    """The modules that means and percentiles are over."""
    return [layer for layer in report.layers if layer.status == "ok"]


def k_label(threshold: float) -> str:
    """`k@90` for 0.90, `k@97.5` for 0.975."""
    return f"k@{100 * threshold:.6g}"


def energy_ranks_of(layer: LayerAudit, tau: float) -> dict[float, int | None]:
    """The energy rank at each threshold that a report with `tau` tells, the smallest threshold first."""
    ranks = {tau: layer.energy_rank_tau}
    ranks |= {0.90: layer.energy_rank_90, 0.95: layer.energy_rank_95, 0.99: layer.energy_rank_99}
    return dict(sorted(ranks.items()))


def measure_digits(report: AuditReport) -> int:
    """Digits that hold in a measure of every module."""
    return min((layer_digits(layer) for layer in trained_layers(report)), default=DIGITS)


def layer_digits(layer: LayerAudit) -> int:
    """Digits of a module's measures that storage rounding and the error of the computation leave."""
    return digits_for((layer.storage_error or 0.0) + (layer.error_bound or 0.0))
