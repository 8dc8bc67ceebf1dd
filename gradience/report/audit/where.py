"""Where? The maps of the layers, what lies outside of them, and the modules with most and least spare rank."""

from __future__ import annotations

from collections.abc import Iterable

from gradience.report.audit.heat import HEAT, SIGN_WORDS, LayerMap, layer_maps, outside
from gradience.report.audit.view import View, k_label, layer_digits, measure_digits, trained_layers
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Paragraph, Span, Table
from gradience.reports.base.charts import BLOCKS
from gradience.reports.base.numbers import count, percent, sig
from gradience.reports.base.view import more

SHOWN_OUTSIDE = 3


def where_blocks(report: AuditReport, view: View) -> list[Block]:
    """The maps of the largest stacks of layers, what lies outside of them, and where the energy is."""
    if not report.layers:
        return []
    maps, hidden_stacks = layer_maps(report, view.map_columns)
    blocks: list[Block] = [Heading("Where?", aside=legend(report, maps) if maps else "")]
    for layers in maps:
        blocks.append(layers.heat)
        blocks += more(layers.hidden, "more kind of modules", view.rest, "more kinds of modules")
        if layers.most_modules > 1:
            blocks.append(Paragraph(Span(several(layers), "dim")))
    blocks += more(hidden_stacks, "more stack of layers", view.rest, "more stacks of layers")
    blocks += outside_blocks(report, view)
    sentence = gain_sentence(report)
    blocks += [Paragraph(sentence)] if sentence else []
    return [*blocks, *extreme_blocks(report, view)]


def legend(report: AuditReport, maps: Iterable[LayerMap]) -> Inline:
    """What the signs mean, those that are there."""
    signs = {cell for layers in maps for row in layers.heat.rows for cell in row.cells}
    ramp = map(Span, BLOCKS, HEAT)
    others = [f"  {sign.text} {word}" for sign, word in SIGN_WORDS.items() if sign in signs]
    return (f"{k_label(report.tau)} / r in eighths ", *ramp, *others)


def several(layers: LayerMap) -> str:
    """That a sign stands for several modules, and for how many."""
    merged = f"{layers.per_column} layers per column, " if layers.per_column > 1 else ""
    return f"{merged}each sign the median of up to {layers.most_modules} modules"


def outside_blocks(report: AuditReport, view: View) -> list[Block]:
    """Modules that belong to no layer, such as `lm_head`."""
    layers = outside(report)
    parts: list[str | Span] = []
    for layer in layers[:SHOWN_OUTSIDE]:
        k = layer.energy_rank_tau
        said = f"{k_label(report.tau)} {k} of {layer.r}" if k is not None else layer.status
        parts += ["; " if parts else "outside the layers: ", Span(layer.label, "name"), f" {said}"]
    rest = len(layers) - SHOWN_OUTSIDE
    parts += [f"; {count(rest)} more{view.rest}"] if rest > 0 else []
    return [Paragraph(tuple(parts))] if parts else []


def gain_sentence(report: AuditReport) -> str:
    """How large the update is and where it sits; empty where the scale is unknown."""
    gain = report.gain
    if gain is None or not gain.per_layer:
        return ""
    digits = measure_digits(report)
    parts = [f"‖ΔW‖_F {sig(gain.fro_norm_total, digits)}", f"‖ΔW‖₂ ≤ {sig(gain.sigma_max, digits)}"]
    if len(gain.per_layer) > 1:
        top = max(gain.per_layer, key=lambda layer: layer.share)
        parts.append(f"{short_layer(report, top.layer)} has {percent(top.share)} of the energy")
        parts.append(f"HHI {sig(gain.hhi, 2)}")
    return " · ".join(parts)


def short_layer(report: AuditReport, layer: str) -> str:
    """`layer 31` where all layers are of one stack, else the path."""
    stacks = {row.layer.rpartition(".")[0] for row in report.layers if row.layer}
    stack, _, number = layer.rpartition(".")
    return f"layer {number}" if stacks == {stack} else layer


def extreme_blocks(report: AuditReport, view: View) -> list[Block]:
    """Modules with most spare rank, then those with least."""
    spare = wasteful(report, view.most_spare)
    full = [layer for layer in fullest(report, view.least_spare) if layer not in spare]
    if not spare and not full:
        return []
    ends = [*(("most", layer) for layer in spare), *(("least", layer) for layer in full)]
    titles = ("r", k_label(report.tau), "stable", "spare params")
    columns = [Column("spare"), Column("module"), *(Column(title, ">") for title in titles)]
    rows: list[list[Inline]] = [
        [
            Span(end, "dim"),
            Span(layer.label, "name"),
            str(layer.r),
            str(layer.energy_rank_tau),
            sig(layer.stable_rank, layer_digits(layer)),
            count(spare_params(layer)),
        ]
        for end, layer in ends
    ]
    return [Table(columns, rows)]


def spare_params(layer: LayerAudit) -> int:
    """Parameters of the directions beyond the energy rank."""
    k = layer.energy_rank_tau
    return 0 if k is None else layer.params // layer.r * (layer.r - k)


def wasteful(report: AuditReport, number: int) -> list[LayerAudit]:
    """Trained modules with the most parameters beyond their energy rank; none where nothing may be suggested."""
    if report.suggestions is None:
        return []
    ranked = sorted(
        (layer for layer in trained_layers(report) if spare_params(layer) > 0),
        key=lambda layer: (-spare_params(layer), layer.stable_rank or 0.0, layer.label),
    )
    return ranked[:number]


def fullest(report: AuditReport, number: int) -> list[LayerAudit]:
    """Trained modules whose energy rank is nearest to r: there a smaller rank costs most."""
    if report.suggestions is None:
        return []
    ranked = sorted(
        trained_layers(report),
        key=lambda layer: (-(layer.energy_rank_tau or 0) / layer.r, -(layer.stable_rank or 0.0), layer.label),
    )
    return ranked[:number]
