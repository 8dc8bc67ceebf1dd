"""What matters to the model's output, and what is each size predicted to cost? With a calibration."""

from __future__ import annotations

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.prediction import MeasuredEffects
from gradience.report.audit.view import View
from gradience.report.blocks import Block, Column, Facts, Heading, Inline, Paragraph, Span, Table
from gradience.report.compression.prediction import curve_table, ratios_text
from gradience.report.numbers import plural, sig, trimmed

SHOWN = 3
"""Modules and layers on the screen."""


def effect_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the predicted curve, ranks by weights and by effect, and the modules and layers that matter most."""
    effects = report.effects
    if effects is None:
        return []
    rows: list[tuple[str, Inline]] = [
        ("k@90 by weights", _pair(report.energy_rank_90_p50, report.energy_rank_90_p90)),
        ("k@90 by effect", _pair(effects.weighted_energy_rank_90_p50, effects.weighted_energy_rank_90_p90)),
    ]
    if effects.excluded_modules:
        excluded = plural(effects.excluded_modules, "module")
        rows.append(("excluded", f"{excluded}, whose rank stays in every prediction"))
    return [
        Heading("What matters to the output?", aside="from a calibration: better evidence than weights"),
        Facts(rows),
        *([curve_table(effects.curve)] if effects.curve else []),
        _most(effects, None if not view.brief else SHOWN),
        Paragraph(Span(_basis(effects), "dim")),
    ]


def _basis(effects: MeasuredEffects) -> str:
    return (
        f"KL in nats per scored token, to second order, from {plural(effects.rows, 'row')}. Measured / predicted so"
        f" far: {ratios_text(effects.ratios)}. --max-kl of compress takes a limit."
    )


def _pair(median: float | None, p90: float | None) -> str:
    return f"median {trimmed(median)}, p90 {trimmed(p90)}"


def _most(effects: MeasuredEffects, shown: int | None) -> Table:
    """Layers, then modules, by the predicted KL of leaving their updates out."""
    layers = sorted(effects.by_layer, key=lambda each: (-each.importance, each.layer))[:shown]
    modules = sorted(effects.modules, key=lambda each: (-each.importance, each.name))[:shown]
    rows: list[list[Inline]] = []
    for layer in layers:
        rows.append(["layer", Span(layer.layer, "name"), sig(layer.importance), ""])
    for module in modules:
        rank = str(module.weighted_energy_rank_90)
        rows.append(["module", Span(module.name, "name"), sig(module.importance), rank])
    columns = [
        Column("matters most"),
        Column(""),
        Column("KL without it", ">"),
        Column("k@90 by effect", ">"),
    ]
    return Table(columns, rows)
