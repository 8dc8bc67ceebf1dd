"""A compression's plan and its report -> the screen: what is kept, what is lost, who can load it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from gradience.adapters.keys import family_of
from gradience.artifacts.compression import (
    CompressionPlan,
    CompressionReport,
    ModulePlan,
    ModuleResult,
    RuntimeVerdict,
)
from gradience.report.names import display_name, display_sentence
from gradience.report.numbers import count, number_range, percent, plural, sig, size
from gradience.report.terminal import Cell, Line, Span, columns, fit, line, paragraph, render

WIDTH = 80
WORST = 5
"""Modules that lose most, listed on the screen."""
VERDICT_STYLES = {"loads": "good", "wrong scale": "bad", "wrong meaning": "bad", "refuses": "bad", "unknown": "dim"}
VERDICT_MARKS = {"loads": "✓", "wrong scale": "✗", "wrong meaning": "✗", "refuses": "✗", "unknown": "?"}


class FamilyRow(NamedTuple):
    """Modules of one family, before and after."""

    family: str
    modules: int
    old_ranks: str
    new_ranks: str
    old_params: int
    new_params: int
    kept: float | None
    """Median of the kept energies."""
    error: float | None
    """Largest error of a module."""


def family_rows(modules: Iterable[ModulePlan | ModuleResult]) -> list[FamilyRow]:
    """One row a family, in the order of the adapter."""
    grouped: dict[str, list[ModulePlan | ModuleResult]] = defaultdict(list)
    for module in modules:
        grouped[family_of(module.name)].append(module)
    rows = []
    for family, members in grouped.items():
        kept = [module.kept_energy for module in members if module.kept_energy is not None]
        errors = [error for module in members if (error := error_of(module)) is not None]
        rows.append(
            FamilyRow(
                family,
                len(members),
                number_range(module.old_rank for module in members),
                number_range(module.new_rank for module in members),
                sum(module.old_params for module in members),
                sum(module.new_params for module in members),
                median(kept) if kept else None,
                max(errors) if errors else None,
            )
        )
    return rows


def error_of(module: ModulePlan | ModuleResult) -> float | None:
    """The measured error of a written module, the predicted one of a planned."""
    return module.measured_error if isinstance(module, ModuleResult) else module.predicted_error


def worst(
    modules: Iterable[ModulePlan | ModuleResult], number: int = WORST
) -> list[ModulePlan | ModuleResult]:
    """The modules with the largest relative error; none of those that lose nothing."""
    lossy = [module for module in modules if (error_of(module) or 0.0) > 1e-3]
    return sorted(lossy, key=lambda module: -(error_of(module) or 0.0))[:number]


def step(rank: int | None) -> str:
    """vLLM's permitted max_lora_rank in words."""
    return "over 512" if rank is None else str(rank)


# ---------------------------------------------------------------- the plan


def plan_text(plan: CompressionPlan, *, width: int | None = None, color: bool = False) -> str:
    """What `--dry-run` prints."""
    width = max(WIDTH, min(width or WIDTH, 100))
    lines = [
        line(Span(fit(display_name(plan.adapter_path), width), "strong")),
        *paragraph(f"Plan: {plan.criterion}. Nothing was written.", width, indent=0),
        [],
        *totals_lines(
            plan.old_params, plan.new_params, plan.old_bytes, plan.new_bytes, plan.reduction, "LoRA factors"
        ),
        line("  energy kept       ", Span(percent(plan.kept_energy), "strong")),
        line(
            "  predicted error   ",
            Span(sig(plan.predicted_error), "strong"),
            "  ‖ΔW − ΔW′‖/‖ΔW‖, whole adapter",
        ),
        line(
            f"  max_lora_rank     {step(plan.old_max_lora_rank)} → {step(plan.new_max_lora_rank)}  (vLLM's steps)"
        ),
        [],
        *family_lines(plan.modules),
        *worst_lines(plan.modules, width),
        *fixed_lines(plan, width),
    ]
    return render(lines, color=color)


def totals_lines(
    old_params: int, new_params: int, old_bytes: int, new_bytes: int, reduction: float, what: str
) -> list[Line]:
    """Parameters and bytes, before and after."""
    return [
        line(
            f"  parameters        {count(old_params)} → ",
            Span(count(new_params), "strong"),
            "  ",
            Span(f"{percent(reduction)} saved", "good" if reduction > 0 else "dim"),
        ),
        line(f"  {what:<17} {size(old_bytes)} → ", Span(size(new_bytes), "strong")),
    ]


def family_lines(modules: Sequence[ModulePlan | ModuleResult]) -> list[Line]:
    """One row a family."""
    head: list[Cell] = [Span("modules", "heading")]
    head += [Span(text, "dim") for text in ("", "rank", "parameters", "energy kept", "worst error")]
    table: list[list[Cell]] = [head]
    for row in family_rows(modules):
        ranks = row.old_ranks if row.old_ranks == row.new_ranks else f"{row.old_ranks} → {row.new_ranks}"
        table.append(
            [
                fit(display_name(row.family), 30),
                Span(f"× {row.modules}", "dim"),
                Span(ranks, "strong"),
                count(row.new_params),
                percent(row.kept),
                sig(row.error),
            ]
        )
    return columns(table, "<>>>>>")


def worst_lines(modules: Sequence[ModulePlan | ModuleResult], width: int) -> list[Line]:
    """Who loses most."""
    found = worst(modules)
    if not found:
        return []
    table: list[list[Cell]] = [
        [Span("loses most", "heading"), *(Span(text, "dim") for text in ("rank", "error"))]
    ]
    for module in found:
        name = Span(fit(display_name(module.name), width - 24), "name")
        table.append([name, f"{module.old_rank} → {module.new_rank}", sig(error_of(module))])
    return [[], *columns(table, "<>>")]


def fixed_lines(plan: CompressionPlan, width: int) -> list[Line]:
    """Modules that keep their rank whatever was asked."""
    by_reason: dict[str, int] = defaultdict(int)
    for module in plan.modules:
        if module.fixed:
            by_reason[module.fixed] += 1
    lines = []
    for reason, number in by_reason.items():
        lines += paragraph(f"{plural(number, 'module')} left as they are: {reason}", width)
    dropped = [module for module in plan.modules if module.new_rank == 0]
    if dropped:
        names = ", ".join(display_name(module.name) for module in dropped[:2])
        lines += paragraph(f"{plural(len(dropped), 'module')} would be left out (rank 0): {names} …", width)
    return [[], *lines] if lines else []


# ---------------------------------------------------------------- the report


def compression_text(report: CompressionReport, *, width: int | None = None, color: bool = False) -> str:
    """What `gradience compress` prints."""
    width = max(WIDTH, min(width or WIDTH, 100))
    lines = [
        line(Span(fit(display_name(report.output_path), width), "strong")),
        *paragraph(f"from {display_name(report.source_path)} · {report.criterion}", width, indent=0),
        *paragraph(
            f"sha256 {report.output_sha256[:12]} from {report.source_sha256[:12]}",
            width,
            indent=0,
            style="dim",
        ),
        [],
        *totals_lines(
            report.old_params,
            report.new_params,
            report.old_bytes,
            report.new_bytes,
            report.reduction,
            "weights on disk",
        ),
        line("  energy kept       ", Span(percent(report.kept_energy), "strong")),
        *error_lines(report),
        line(
            f"  max_lora_rank     {step(report.old_max_lora_rank)} → {step(report.new_max_lora_rank)}  (vLLM's steps)"
        ),
        [],
        *family_lines(report.modules),
        *worst_lines(report.modules, width),
        [],
        *written_lines(report, width),
        [],
        *runtime_lines(report.runtimes, width),
        [],
        *paragraph(
            "A small error in the weights is no proof of equal quality: evaluate the smaller adapter on the task.",
            width,
            indent=0,
        ),
    ]
    return render(lines, color=color)


def error_lines(report: CompressionReport) -> list[Line]:
    """Predicted, and measured on what was stored."""
    measured = line(
        "  error             ",
        Span(sig(report.measured_error), "strong"),
        f"  ‖ΔW − ΔW′‖/‖ΔW‖ as stored (predicted {sig(report.predicted_error)})",
    )
    outputs = [module.output_error for module in report.modules if module.output_error is not None]
    if not outputs:
        return [measured]
    dora = f"  layers (DoRA)     {sig(max(outputs))}  largest ‖W′ − W″‖/‖W′ − W‖ of a whole layer"
    return [measured, line(dora)]


def written_lines(report: CompressionReport, width: int) -> list[Line]:
    """How it was written, and what happened to everything else."""
    lines = paragraph(
        f"{report.encoding}: {report.encoding_reason}", width, first=[Span("  encoding  ", "dim")], indent=12
    )
    changes = ", ".join(
        f"{display_name(name)} {display_sentence(change)}" for name, change in report.config_changes.items()
    )
    lines += paragraph(changes or "nothing", width, first=[Span("  config    ", "dim")], indent=12)
    tensors, files = plural(report.carried_tensors, "tensor"), plural(len(report.carried_files), "file")
    carried = f"{tensors} and {files} byte for byte"
    lines += paragraph(carried, width, first=[Span("  carried   ", "dim")], indent=12)
    for label, names in (
        ("dropped", report.dropped),
        ("stripped", report.stripped),
        ("left out", report.left_out_files),
    ):
        if names:
            shown = ", ".join(display_name(name) for name in names[:4]) + (" …" if len(names) > 4 else "")
            first = [Span(f"  {label:<10}", "dim")]
            lines += paragraph(f"{len(names)}: {shown}", width, first=first, indent=12)
    for warning in report.warnings:
        lines += paragraph(display_sentence(warning), width, first=[Span("  ! ", "warn")], indent=4)
    return lines


def runtime_lines(runtimes: Sequence[RuntimeVerdict], width: int) -> list[Line]:
    """Who loads this file with the right meaning, and how that is known."""
    lines = [line(Span("Who loads it with the right meaning?", "heading"))]
    for runtime in runtimes:
        style = VERDICT_STYLES[runtime.verdict]
        first = [
            Span("  "),
            Span(VERDICT_MARKS[runtime.verdict], style),
            Span(f" {runtime.runtime} {runtime.version}"[:24].ljust(24)),
            Span(" "),
        ]
        text = f"{runtime.verdict}: {runtime.why} ({runtime.basis})"
        lines += paragraph(display_sentence(text), width, first=first, indent=28)
    return lines
