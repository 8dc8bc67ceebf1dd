"""How large is the update beside the weights? Where the base model was given."""

from __future__ import annotations

from collections import Counter

from gradience.ranks import percentile
from gradience.report.audit.view import View
from gradience.reports.audit import AuditReport
from gradience.reports.base.blocks import (
    Block,
    Column,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    figures,
)
from gradience.reports.base.numbers import bound, count, percent, plural, sig

SHOWN = 3
"""Modules on the screen."""
REASONS = 3
"""Reasons that are named."""


def dominance_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the medians, the modules where the update is largest beside W, and what was not compared."""
    base = report.base
    if base is None:
        return []
    blocks: list[Block] = [Heading("How large is it beside the base?", aside=Span(base.base, "name"))]
    if base.quantization is not None:
        blocks.append(Paragraph(("a quantized base: ", Span(base.quantization, "name"))))
    if base.modules:
        pairs = (
            ("‖ΔW‖₂/‖W‖₂", base.spectral_median, base.spectral_p90),
            ("‖ΔW‖_F/‖W‖_F", base.frobenius_median, base.frobenius_p90),
        )
        rows = [(label, f"{sig(middle)}, {sig(high)}", "median, p90") for label, middle, high in pairs]
        shares = (
            ("by ‖·‖₂", base.above_10_percent, base.above_30_percent),
            ("by ‖·‖_F", base.frobenius_above_10_percent, base.frobenius_above_30_percent),
        )
        for norm, tenth, third in shares:
            said = f"of {plural(len(base.modules), 'module')}, {norm}"
            rows.append(("above 0.1, 0.3", f"{percent(tenth)}, {percent(third)}", said))
        moved = [module.dora.magnitude for module in base.modules if module.dora]
        if moved:
            spread = f"{sig(float(percentile(moved, 50)))}, {sig(float(percentile(moved, 90)))}"
            rows.append(
                ("‖m − m₀‖/‖m₀‖", spread, "median, p90: DoRA's magnitudes, of which ΔW here is made too")
            )
        blocks += [figures(rows), _largest(report, SHOWN if view.brief else None)]
        blocks.append(_tolerance(base.tolerance))
    reasons = Counter(module.reason for module in base.not_compared)
    notes = [
        Note("warning", f"{plural(number, 'module')} not compared: {reason}")
        for reason, number in reasons.most_common(REASONS)
    ]
    if len(reasons) > REASONS:
        notes.append(Note("warning", f"{count(len(reasons) - REASONS)} more reasons in --json"))
    return [*blocks, *([Notes(notes)] if notes else [])]


def _tolerance(tolerance: float) -> Block:
    said = f"‖W‖₂ is at most {bound(100 * tolerance)} % too small, so that the ratio is at most as much too large"
    return Notes([Note("info", said)])


def _largest(report: AuditReport, shown: int | None) -> Table:
    assert report.base is not None
    ordered = sorted(report.base.modules, key=lambda module: (-module.spectral, module.name))
    rows: list[list[Inline]] = [
        [Span(module.name, "name"), sig(module.spectral), sig(module.frobenius)] for module in ordered[:shown]
    ]
    return Table([Column("largest"), Column("‖·‖₂", ">"), Column("‖·‖_F", ">")], rows)
