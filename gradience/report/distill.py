"""`gradience distill`: how far the smaller adapter is from its original, before and after, as blocks."""

from __future__ import annotations

from collections.abc import Callable

from gradience.report.evidence import probability
from gradience.reports.base import terminal
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
)
from gradience.reports.base.numbers import count, memory_parts, percent, plural, sig, signed
from gradience.reports.distill import DistillForecast, DistillReport, MeanKl

LEVEL = 0.025
"""One-sided level at which distillation is said to bring an adapter closer, or farther away."""
FEW = 30
"""Rows held out below which it is said that they are few."""


def distill_text(report: DistillReport, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience distill` prints."""
    following = "Next: gradience evaluate ORIGINAL DISTILLED --base-model ID_OR_PATH --data ROWS -o DIR"
    blocks = [*distill_blocks(report), Paragraph(Span(following, "dim"))]
    return terminal.render(blocks, width=width, color=color)


def distill_blocks(report: DistillReport) -> Document:
    """Return what was trained on what, KL before and after, and what the early stop saw."""
    return [
        Heading(("Distillation of ", Span(report.adapter_path, "name")), level=1),
        Facts(_facts(report)),
        Heading("Distance from the original"),
        Paragraph(_answer(report)),
        Table(
            [Column("on rows held out"), Column("KL", ">"), Column("95 % interval", ">")],
            [
                _row("before", report.before, sig),
                _row("after", report.after, sig),
                _row("after − before", report.change, signed),
            ],
        ),
        *_notes(report),
        Heading("Which step was kept?"),
        Table(
            [Column("step", ">"), Column("KL on rows that decide", ">"), Column("")],
            [
                [str(check.step), sig(check.kl), "kept" if check.step == report.best_step else ""]
                for check in report.checks
            ],
        ),
        Paragraph(
            "KL: divergence of the adapter from its original per scored token, in nats. It is no accuracy: evaluate the"
            " result."
        ),
    ]


def _answer(report: DistillReport) -> str:
    if not report.improved:
        return "No step was better than the start: the adapter is written as it was given."
    p = report.p_closer
    closer = p < LEVEL if p is not None else report.change.high < 0
    farther = p > 1 - LEVEL if p is not None else report.change.low > 0
    if farther:
        return "Farther from the original on the held-out examples: use the adapter that you gave."
    recovered = 1 - report.after.kl / report.before.kl if report.before.kl else 0.0
    counted = sum(row.after < row.before for row in report.by_row)
    how = f"{count(counted)} of {plural(report.held_out_rows, 'held-out example')} are closer"
    how += "" if p is None else f", {probability(p)} that distillation changed nothing"
    if closer:
        return f"Closer to the original: distillation recovered {percent(recovered)} of the KL ({how})."
    change = f"KL fell by {percent(recovered)}" if recovered >= 0 else f"KL rose by {percent(-recovered)}"
    return f"Inconclusive: {change} ({how}). More prompts would show a change of this size."


def _facts(report: DistillReport) -> list[tuple[str, Inline]]:
    parts = (
        f"{count(report.training_rows)} trained on, {count(report.stopping_rows)} decide when to stop, "
        f"{count(report.held_out_rows)} held out"
    )
    rows: list[tuple[str, Inline]] = [
        ("original", Span(report.teacher_path, "name")),
        ("base", Span(report.base, "name")),
        ("prompts", (Span(report.prompts, "name"), f", {plural(report.rows, 'row')}")),
        ("rows", parts),
        ("scored", f"{plural(report.scored_tokens, 'token')} of the rows held out"),
        (
            "trained",
            f"{plural(report.trained_params, 'parameter')} of LoRA factors alone; the original has "
            f"{count(report.teacher_params)}",
        ),
        (
            "steps",
            f"{count(report.steps)} of {count(report.planned_steps)}, {count(report.batch_size)} rows each",
        ),
    ]
    if report.kind != "sequence_classification":
        text = f"{count(report.given_completions)} given, {count(report.sampled_completions)} written by the original"
        rows.insert(4, ("completions", text))
    return rows


def _row(name: str, mean: MeanKl, number: Callable[[float], str]) -> list[Inline]:
    return [name, number(mean.kl), f"{number(mean.low)} … {number(mean.high)}"]


def _notes(report: DistillReport) -> list[Block]:
    notes = [Note("info", note) for note in report.notes]
    if report.held_out_rows < FEW:
        notes.append(
            Note("warning", f"only {plural(report.held_out_rows, 'row')} held out: give some hundred")
        )
    if report.truncated:
        lost = "the end of the text" if report.kind != "causal_lm" else "the beginning of the prompt"
        notes.append(Note("info", f"{plural(report.truncated, 'row')} too long: lost {lost}"))
    if report.duplicates:
        notes.append(Note("info", f"{plural(report.duplicates, 'repeated row')} left out"))
    return [Notes(notes)] if notes else []


# ---------------------------------------------------------------- before it


def distill_forecast_text(forecast: DistillForecast, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience distill --dry-run` prints."""
    parts = (
        f"{count(forecast.rows)}: {count(forecast.training_rows)} trained on, "
        f"{count(forecast.stopping_rows)} decide when to stop, {count(forecast.held_out_rows)} held out"
    )
    memory = {
        "base": forecast.weights_bytes,
        "adapters and optimizer": forecast.held_bytes,
        "Python and libraries": forecast.process_bytes,
    }
    rows: list[tuple[str, Inline]] = [
        (
            "adapter",
            (Span(forecast.adapter_path, "name"), f", {plural(forecast.trained_params, 'parameter')}"),
        ),
        (
            "original",
            (Span(forecast.teacher_path, "name"), f", {plural(forecast.teacher_params, 'parameter')}"),
        ),
        ("base", Span(forecast.base, "name")),
        ("examples", parts),
        ("longest", f"{plural(forecast.longest, 'token')}, {count(forecast.batch_size)} examples in a batch"),
        (
            "passes",
            f"up to {count(forecast.forward_examples)} examples forward and"
            f" {count(forecast.backward_examples)} backward, in {plural(forecast.steps, 'step')}",
        ),
        ("memory", memory_parts(memory)),
    ]
    if forecast.sampled_completions:
        rows.insert(4, ("completions", f"{count(forecast.sampled_completions)} written by the original"))
    blocks: list[Block] = [
        Heading("Dry run: no model was loaded", level=1),
        Facts(rows),
        Paragraph(
            "Memory does not include the base's activations, their gradients, and the logits of a batch, twice."
        ),
    ]
    return terminal.render(blocks, width=width, color=color)
