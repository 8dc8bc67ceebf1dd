"""Every module of an audit, one row each: what `--layers` shows."""

from __future__ import annotations

from gradience.adapters.locate import natural_key
from gradience.report.audit.view import View, energy_ranks_of, k_label, layer_digits
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Paragraph, Span, Table
from gradience.reports.base.numbers import percent, sig

BORDERLINE = "±"
FOOTNOTE = f"{BORDERLINE} borderline: a threshold is so near that k may be off by one"


def layer_blocks(report: AuditReport, view: View) -> list[Block]:
    """The table of modules (layer 2 before layer 10), and what ± means where it occurs."""
    if not view.layers:
        return []
    thresholds = sorted({report.tau, 0.90, 0.95, 0.99})
    columns = [
        Column("module"),
        Column("r", ">"),
        *(Column(k_label(tau), ">", drop=3 if tau == 0.95 else 0) for tau in thresholds),
        Column("stable", ">"),
        Column("effect.", ">", drop=1),
        Column("util.", ">", drop=2),
        Column("‖ΔW‖_F", ">"),
        Column(),
    ]
    layers = sorted(report.layers, key=lambda layer: natural_key(layer.label))
    rows = [[Span(layer.label, "name"), str(layer.r), *measures(layer, report.tau)] for layer in layers]
    footnote = [Paragraph(Span(FOOTNOTE, "dim"))] if any(layer.borderline for layer in layers) else []
    return [Heading("Every module"), Table(columns, rows), *footnote]


def measures(layer: LayerAudit, tau: float) -> list[Inline]:
    """The columns after the rank; a module without measures says why in their place."""
    ranks = energy_ranks_of(layer, tau).values()
    if layer.status != "ok":
        status = Span(layer.status, "warn" if layer.status == "untrained" else "bad")
        return [*[""] * (len(ranks) + 3), status]
    digits = layer_digits(layer)
    return [
        *map(str, ranks),
        sig(layer.stable_rank, digits),
        sig(layer.effective_rank, digits),
        percent(layer.utilization),
        sig(layer.fro_norm, digits),
        Span(BORDERLINE if layer.borderline else "", "warn"),
    ]
