"""What ranks are suggested?"""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.audit.view import View, k_label
from gradience.reports.audit import AuditReport, PerLayer, Suggestion, Suggestions
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Paragraph, Span, Table
from gradience.reports.base.numbers import count, max_lora_rank, number_range, percent, size, trimmed


def rank_blocks(report: AuditReport, view: View) -> list[Block]:
    """Now and three smaller adapters, with what each saves."""
    plan = report.suggestions
    if plan is None:
        why = (
            "None: see the findings above. A rank is suggested only from a trained update that is B·A alone."
        )
        return [Heading("What ranks are suggested?"), Paragraph(why)]
    columns = [
        Column(),
        Column(k_label(report.tau), ">"),
        Column("rank", ">"),
        Column("parameters", ">"),
        Column("size", ">", drop=2),
        Column("saved", ">"),
        Column("max_lora_rank", ">", drop=1),
    ]
    now = number_range(layer.r for layer in report.layers)
    bytes_now = size(sum(layer.bytes for layer in report.layers))
    current = max_lora_rank(plan.current_max_lora_rank)
    each = number_range(plan.per_layer.rank_pattern.values())
    rows: list[list[Inline]] = [
        ["now", "", Span(now, "strong"), count(report.total_lora_params), bytes_now, "", current],
        ["uniform_median", trimmed(plan.median.unrounded), *suggested(str(plan.median.rank), plan.median)],
        ["uniform_p90", trimmed(plan.p90.unrounded), *suggested(str(plan.p90.rank), plan.p90)],
        ["per_layer", "each", *suggested(each, plan.per_layer)],
    ]
    return [
        Heading("What ranks are suggested?", aside="from weight energy, a crude guide to quality"),
        Table(columns, rows),
        Paragraph(Span(decision_sentence(plan), "dim")),
    ]


def suggested(rank: str, suggestion: Suggestion | PerLayer) -> list[Inline]:
    """Rank, parameters, bytes, saving, and the step of vLLM's max_lora_rank."""
    return [
        Span(rank, "strong"),
        count(suggestion.params),
        size(suggestion.bytes),
        Span(percent(suggestion.reduction), "good" if suggestion.reduction else ""),
        max_lora_rank(suggestion.max_lora_rank),
    ]


def decision_sentence(plan: Suggestions) -> str:
    """How each uniform rank came from its evidence: as measured, rounded up, or limited."""
    words = {
        "evidence": "as measured",
        "grid": f"rounded up (allowed: {shown_grid(plan.allowed_ranks)})",
        "cap": "limited by the current rank",
    }
    chosen = {"median": plan.median, "p90": plan.p90}
    said = {name: f"{name} {trimmed(s.unrounded)} → {s.rank}" for name, s in chosen.items()}
    if plan.median.decided_by == plan.p90.decided_by:
        return f"{said['median']}, {said['p90']}: {words[plan.median.decided_by]}"
    return "; ".join(f"{said[name]}: {words[s.decided_by]}" for name, s in chosen.items())


def shown_grid(grid: Sequence[int], most: int = 5) -> str:
    """`1, 2, 4 … 64`: all allowed ranks, or the ends of a long list."""
    if len(grid) <= most:
        return ", ".join(map(str, grid))
    return f"{', '.join(map(str, grid[:3]))} … {grid[-1]}"
