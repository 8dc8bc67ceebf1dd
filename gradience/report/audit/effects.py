"""Modules and layers that matter to the output, and the predicted KL of each size. With a calibration."""

from __future__ import annotations

from gradience.report.audit.view import View
from gradience.report.compression.prediction import curve_blocks, ratios_text
from gradience.reports.audit import AuditReport
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Note, Notes, Paragraph, Span, Table
from gradience.reports.base.numbers import plural, sig
from gradience.reports.base.prediction import ROUTED, MeasuredEffects

SHOWN = 3
"""Modules and layers on the screen."""


def effect_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the predicted curve, and the modules and layers that matter most."""
    effects = report.effects
    if effects is None:
        return []
    notes = []
    if effects.routing:
        notes.append(Note("warning", f"no KL of sizes: {ROUTED.format(effects.routing)}"))
    if effects.excluded_modules:
        excluded = plural(effects.excluded_modules, "module")
        notes.append(Note("info", f"{excluded} excluded: the rank stays in every prediction"))
    return [
        Heading("What matters to the output?", aside="from a calibration"),
        *([Notes(notes)] if notes else []),
        *(curve_blocks(effects.curve) if effects.curve else []),
        _most(effects, None if not view.brief else SHOWN),
        Paragraph(Span(_basis(effects), "dim")),
    ]


def _basis(effects: MeasuredEffects) -> str:
    return (
        f"KL in nats per scored token, to second order, from {plural(effects.rows, 'row')}. Measured / predicted so"
        f" far: {ratios_text(effects.ratios)}. --max-kl of compress takes a limit."
    )


def _most(effects: MeasuredEffects, shown: int | None) -> Table:
    """Layers, then modules, by the predicted KL of leaving their updates out."""
    layers = sorted(effects.by_layer, key=lambda each: (-each.importance, each.layer))[:shown]
    modules = sorted(effects.modules, key=lambda each: (-each.importance, each.name))[:shown]
    rows: list[tuple[Inline, ...]] = [
        *(("layer", Span(layer.layer, "name"), sig(layer.importance)) for layer in layers),
        *(("module", Span(module.name, "name"), sig(module.importance)) for module in modules),
    ]
    columns = [Column("matters most"), Column(""), Column("KL without it", ">")]
    return Table(columns, rows)
