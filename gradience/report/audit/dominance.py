"""How large is the update beside the weights? Where the base model was given."""

from __future__ import annotations

from collections import Counter

from gradience.artifacts.audit import AuditReport
from gradience.report.audit.view import View
from gradience.report.blocks import Block, Column, Heading, Inline, Note, Notes, Span, Table, figures
from gradience.report.numbers import bound, count, percent, plural, sig

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
    if base.modules:
        pairs = (
            ("‖ΔW‖₂/‖W‖₂", base.spectral_median, base.spectral_p90),
            ("‖ΔW‖_F/‖W‖_F", base.frobenius_median, base.frobenius_p90),
        )
        rows = [(label, f"{sig(middle)}, {sig(high)}", "median, p90") for label, middle, high in pairs]
        above = f"{percent(base.above_10_percent)}, {percent(base.above_30_percent)}"
        rows.append(("above 0.1, 0.3", above, f"of {plural(len(base.modules), 'module')}, by ‖·‖₂"))
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
