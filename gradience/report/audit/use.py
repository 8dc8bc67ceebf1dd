"""How much of its rank does it use?"""

from __future__ import annotations

from collections.abc import Callable

from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.ranks import percentile
from gradience.report.audit.view import View, k_label, measure_digits, trained_layers
from gradience.report.blocks import Bar, Bars, Block, Facts, Heading, Inline
from gradience.report.numbers import percent, sig, trimmed


def use_blocks(report: AuditReport, view: View) -> list[Block]:
    """Energy ranks and stable rank over the trained modules, on the scale of r; then what is relative to r."""
    if not trained_layers(report):
        return []
    top = max(layer.r for layer in report.layers)
    scale = f"r = {top}" if all(layer.r == top for layer in report.layers) else f"r ≤ {top}"
    tau = k_label(report.tau)
    meaning = f"{tau}: directions that hold {tau[2:]} % of the energy"
    return [
        Heading("How much of its rank does it use?", aside=meaning),
        Bars(("median", "p90", "max"), use_bars(report), top, scale),
        Facts(relative_use(report)),
    ]


def use_bars(report: AuditReport) -> list[Bar]:
    """Median, 90th percentile and maximum of each measure, the report's own threshold among them."""
    at: dict[float, Callable[[LayerAudit], float | None]] = {
        report.tau: lambda layer: layer.energy_rank_tau,
        0.90: lambda layer: layer.energy_rank_90,
        0.95: lambda layer: layer.energy_rank_95,
        0.99: lambda layer: layer.energy_rank_99,
    }
    digits = measure_digits(report)
    bars = []
    for threshold in sorted(at):
        values = spread(report, at[threshold])
        bars.append(Bar(k_label(threshold), [trimmed(value) for value in values], values))
    values = spread(report, lambda layer: layer.stable_rank)
    bars.append(Bar("stable rank Σσ²/σ₁²", [sig(value, digits) for value in values], values))
    return [bar for bar in bars if bar.values]


def spread(report: AuditReport, measure: Callable[[LayerAudit], float | None]) -> tuple[float, ...]:
    """Median, 90th percentile and maximum over the trained modules; nothing where none has the measure."""
    values = [value for layer in trained_layers(report) if (value := measure(layer)) is not None]
    return (float(percentile(values, 50)), float(percentile(values, 90)), max(values)) if values else ()


def relative_use(report: AuditReport) -> list[tuple[str, Inline]]:
    """Utilization, and the two figures that do not mostly measure 1/r."""
    rows: list[tuple[str, Inline]] = [
        ("utilization", f"{percent(report.utilization_median)} (median stable rank / r)")
    ]
    if report.rank_use_median is not None:
        rows.append(("rank use", f"{percent(report.rank_use_median)} (median (stable rank − 1) / (r − 1))"))
    if report.null_position_median is not None:
        position = sig(report.null_position_median, min(2, measure_digits(report)))
        rows.append(("null position", f"{position} (median; 0 is one direction, 1 is random factors)"))
    return rows
