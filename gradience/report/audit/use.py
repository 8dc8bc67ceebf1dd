"""How much of its rank does it use?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gradience.ranks import percentile
from gradience.report.audit.view import View, energy_ranks_of, k_label, measure_digits, trained_layers
from gradience.reports.audit import AuditReport
from gradience.reports.base.blocks import Bar, Bars, Block, Facts, Heading, Inline
from gradience.reports.base.numbers import percent, sig, trimmed


def use_blocks(report: AuditReport, view: View) -> list[Block]:
    """Energy ranks and stable rank over the trained modules, on the scale of r; then what is relative to r."""
    if not trained_layers(report):
        return []
    top = max(layer.r for layer in report.layers)
    scale = f"r = {top}" if all(layer.r == top for layer in report.layers) else f"r ≤ {top}"
    tau = k_label(report.tau)
    meaning = f"{tau}: directions with {tau[2:]} % of the energy"
    return [
        Heading("How much of its rank does it use?", aside=meaning),
        Bars(("median", "p90", "max"), use_bars(report), top, scale),
        Facts(relative_use(report)),
    ]


def use_bars(report: AuditReport) -> list[Bar]:
    """Median, 90th percentile and maximum of each measure, the report's own threshold among them."""
    layers = trained_layers(report)
    digits = measure_digits(report)
    ranks: dict[float, list[int]] = {}
    for layer in layers:
        for threshold, k in energy_ranks_of(layer, report.tau).items():
            ranks.setdefault(threshold, []).extend([] if k is None else [k])
    bars = [_bar(k_label(threshold), values, trimmed) for threshold, values in ranks.items()]
    stable = [layer.stable_rank for layer in layers if layer.stable_rank is not None]
    bars.append(_bar("stable rank Σσ²/σ₁²", stable, lambda value: sig(value, digits)))
    return [bar for bar in bars if bar.values]


def _bar(label: str, values: Sequence[float], show: Callable[[float], str]) -> Bar:
    if not values:
        return Bar(label, (), ())
    spread = (float(percentile(values, 50)), float(percentile(values, 90)), max(values))
    return Bar(label, [show(value) for value in spread], spread)


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
