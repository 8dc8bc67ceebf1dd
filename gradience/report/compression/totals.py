"""What is saved, and what is lost? Figures of the whole adapter."""

from __future__ import annotations

from collections.abc import Iterable

from gradience.report.compression.where import predicted
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Paragraph, Span, Table, figures
from gradience.reports.base.numbers import count, max_lora_rank, percent, plural, sig, size
from gradience.reports.base.view import View
from gradience.reports.compression import CompressionPlan, CompressionReport, ModulePlan, ModuleResult


def saved_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return parameters, bytes and the step of vLLM, before and after."""
    is_plan = isinstance(compression, CompressionPlan)
    stored = "LoRA factors" if is_plan else "weights on disk"
    sizes = (
        ("LoRA parameters", count, compression.old_params, compression.new_params),
        (stored, size, compression.old_bytes, compression.new_bytes),
    )
    rows: list[list[Inline]] = [
        [label, shown(old), Span(shown(new), "strong"), Span(saved(old, new), "good" if new < old else "dim")]
        for label, shown, old, new in sizes
    ]
    before, after = compression.old_max_lora_rank, compression.new_max_lora_rank
    same = Span("the same step" if before == after else "", "dim")
    rows.append(["vLLM max_lora_rank", max_lora_rank(before), Span(max_lora_rank(after), "strong"), same])
    columns = [Column(), Column("before", ">"), Column("after", ">"), Column()]
    blocks: list[Block] = [
        Heading("What would be saved?" if is_plan else "What is saved?"),
        Table(columns, rows),
    ]
    zeros = padding(compression.modules)
    if zeros:
        blocks.append(
            Paragraph(f"{plural(zeros, 'parameter is a zero', 'parameters are zeros')} of padding.")
        )
    return blocks


def saved(before: int, after: int) -> str:
    """Return `50.0 % saved`, `12.5 % more`, `the same`."""
    if before == after:
        return "the same"
    share = 1 - after / before
    return f"{percent(share)} saved" if share > 0 else f"{percent(-share)} more"


def padding(modules: Iterable[ModulePlan | ModuleResult]) -> int:
    """Return how many zeros bring modules to their rank on disk."""
    return sum(
        module.new_params * (module.stored_rank - module.new_rank) // module.stored_rank
        for module in modules
        if isinstance(module, ModuleResult) and module.stored_rank
    )


def lost_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return energy and errors, for DoRA those of whole layers too."""
    foreseen = predicted(compression.predicted_error)
    rows = [("energy kept", percent(compression.kept_energy), "of Σσ² over all modules")]
    if isinstance(compression, CompressionPlan):
        title = "What would be lost?"
        rows.append(("predicted error", foreseen, "‖ΔW − ΔW′‖ / ‖ΔW‖ before storage rounding"))
    else:
        title = "What is lost?"
        rows.append(("error", sig(compression.measured_error), "‖ΔW − ΔW′‖ / ‖ΔW‖ as stored"))
        rows.append(("predicted error", foreseen, "before storage rounding"))
        layers = [error for module in compression.modules if (error := module.output_error) is not None]
        if layers:
            rows.append(("DoRA layers", sig(max(layers)), "largest ‖W′ − W″‖ / ‖W′ − W‖ of a layer"))
    blocks: list[Block] = [Heading(title), figures(rows)]
    if not any(module.new_rank < module.old_rank for module in compression.modules):
        blocks.append(Paragraph("No module is truncated: none has a higher rank than requested."))
    return blocks
