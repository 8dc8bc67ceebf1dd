"""`audit.json` -> every module, one row each, and every finding in full: what `--layers` shows."""

from __future__ import annotations

from gradience.adapters.locate import natural_key
from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.report.audit_facts import k_label, layer_digits
from gradience.report.lines import Line, Span, columns, columns_width, fit_names, line, render
from gradience.report.names import display_name
from gradience.report.numbers import percent, sig

MIN_NAME = 20
STANDARD = (0.90, 0.95, 0.99)
BORDERLINE = "±"
FOOTNOTE = f"{BORDERLINE} borderline: a threshold is so near that k may be off by one"


def layers_text(report: AuditReport, *, width: int | None = None, color: bool = False) -> str:
    """The table of modules. width None: names in full, for a file or a pipe."""
    return render(layer_lines(report, width), color=color)


def layer_lines(report: AuditReport, width: int | None) -> list[Line]:
    """A head, one line per module (layer 2 before layer 10), and what ± means where it occurs."""
    layers = sorted(report.layers, key=lambda layer: natural_key(layer.label))
    own = [] if report.tau in STANDARD else [k_label(report.tau)]
    head = ["r", *own, *map(k_label, STANDARD), "stable", "effect.", "util.", "‖ΔW‖_F", ""]
    rows = [layer_numbers(layer, with_own=bool(own)) for layer in layers]
    used = columns_width([head, *rows], gap=1)
    names = [display_name(layer.label) for layer in layers]
    if width is not None:
        names = fit_names(names, max(MIN_NAME, width - used))
    table = [[Span(text, "dim") for text in ("module", *head)]]
    table += [[Span(name, "name"), *row] for name, row in zip(names, rows, strict=True)]
    lines = columns(table, "<" + ">" * len(head), indent=0, gap=1)
    if any(layer.borderline for layer in report.layers):
        lines.append(line(Span(FOOTNOTE, "dim")))
    return lines


def layer_numbers(layer: LayerAudit, *, with_own: bool) -> list[Span]:
    """The columns after the name; a module without measures says why in their place."""
    if layer.status != "ok":
        style = "warn" if layer.status == "untrained" else "bad"
        return [Span(str(layer.r)), *[Span("")] * (6 + with_own), Span(layer.status, style), Span("")]
    digits = layer_digits(layer)
    ranks = [layer.energy_rank_90, layer.energy_rank_95, layer.energy_rank_99]
    if with_own:
        ranks.insert(0, layer.energy_rank_tau)
    return [
        Span(str(layer.r)),
        *(Span(str(k)) for k in ranks),
        Span(sig(layer.stable_rank, digits)),
        Span(sig(layer.effective_rank, digits)),
        Span(percent(layer.utilization)),
        Span(sig(layer.fro_norm, digits)),
        Span(BORDERLINE if layer.borderline else "", "warn"),
    ]
