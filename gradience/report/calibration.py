"""`gradience calibrate`: what was measured on the prompts, and which modules matter, as blocks."""

from __future__ import annotations

from collections import Counter

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
from gradience.reports.base.numbers import count, memory_parts, plural, sig, size
from gradience.reports.base.prediction import ROUTED
from gradience.reports.calibration import CalibratedModule, CalibrationForecast, CalibrationReport

SHOWN = 8
"""Modules on the screen, unless all are asked for."""


def calibration_text(
    report: CalibrationReport, *, width: int | None = None, color: bool = False, layers: bool = False
) -> str:
    """Return what `gradience calibrate` prints. layers: every module."""
    following = "Next: gradience compress ADAPTER --calibration FILE --dry-run --max-kl 0.01"
    blocks = calibration_blocks(report, shown=None if layers else SHOWN)
    return terminal.render([*blocks, Paragraph(Span(following, "dim"))], width=width, color=color)


def calibration_blocks(report: CalibrationReport, shown: int | None = None) -> Document:
    """Return what was measured on, what is excluded, and which modules matter; `shown` of them, or all."""
    return [
        Heading(("Calibration of ", Span(report.adapter_path, "name")), level=1),
        Facts(_facts(report)),
        *_notes(report),
        Heading("Which modules matter?"),
        _modules(report, shown),
        Paragraph(
            "KL without it: predicted divergence in nats per scored token if the module's whole update is left out. Per"
            " example: the same for all scored tokens of an example."
        ),
    ]


def _facts(report: CalibrationReport) -> list[tuple[str, Inline]]:
    predicting = report.rows - report.selection_rows
    rows: list[tuple[str, Inline]] = [
        ("base", Span(report.base, "name")),
        ("prompts", (Span(report.prompts, "name"), f", {plural(report.rows, 'row')}")),
        ("halves", f"{count(report.selection_rows)} choose, {count(predicting)} predict"),
        ("scored", f"{plural(report.scored_tokens, 'token')} of the rows that predict"),
        ("modules", f"{count(len(report.modules))} calibrated, {count(len(report.excluded))} excluded"),
    ]
    if report.kind != "sequence_classification":
        text = f"{count(report.given_completions)} given, {count(report.sampled_completions)} sampled"
        rows.insert(3, ("completions", text))
    return rows


def _notes(report: CalibrationReport) -> list[Block]:
    reasons = Counter(module.reason for module in report.excluded)
    notes = [Note("info", note) for note in report.notes]
    notes += [
        Note("warning", f"{plural(number, 'module')} excluded from every prediction: {reason}")
        for reason, number in reasons.items()
    ]
    if report.routing:
        text = (
            f"{ROUTED.format(report.routing)}: compress withholds predictions, unless --allow-routed is given"
        )
        notes.insert(0, Note("warning", text))
    if report.truncated:
        what = "the beginning of the prompt" if report.kind == "causal_lm" else "the end of the text"
        notes.append(Note("info", f"{plural(report.truncated, 'row')} too long: lost {what}"))
    if report.duplicates:
        notes.append(Note("info", f"{plural(report.duplicates, 'repeated row')} left out"))
    dependent = sum(module.components < module.rank for module in report.modules)
    if dependent:
        text = (
            f"{plural(dependent, 'module')} with linearly dependent factors: fewer components than the rank"
        )
        notes.append(Note("info", text))
    return [Notes(notes)] if notes else []


def _modules(report: CalibrationReport, shown: int | None) -> Table:
    ordered = sorted(report.modules, key=lambda module: (-module.importance, module.name))
    kept = ordered[:shown]
    tokens = report.scored_tokens / (report.rows - report.selection_rows)
    rows = [_row(module, tokens) for module in kept]
    if len(kept) < len(ordered):
        rows.append([f"… {len(ordered) - len(kept)} more with --layers"])
    columns = [
        Column("module"),
        Column("KL without it", ">"),
        *([Column("per example", ">")] if tokens != 1 else []),
        Column("rank", ">"),
    ]
    return Table(columns, rows)


def _row(module: CalibratedModule, tokens: float) -> list[Inline]:
    each = [sig(module.importance * tokens)] if tokens != 1 else []
    return [Span(module.name, "name"), sig(module.importance), *each, str(module.rank)]


# ---------------------------------------------------------------- before it


def calibration_forecast_text(
    forecast: CalibrationForecast, *, width: int | None = None, color: bool = False
) -> str:
    """Return what `gradience calibrate --dry-run` prints."""
    predicting = forecast.rows - forecast.selection_rows
    memory = {
        "base": forecast.weights_bytes,
        "measurements": forecast.held_bytes,
        "one batch": forecast.batch_bytes,
        "Python and libraries": forecast.process_bytes,
    }
    rows: list[tuple[str, Inline]] = [
        ("adapter", (Span(forecast.adapter_path, "name"), f", {plural(forecast.modules, 'module')}")),
        ("base", Span(forecast.base, "name")),
        (
            "examples",
            f"{count(forecast.rows)}: {count(forecast.selection_rows)} choose, {count(predicting)} predict",
        ),
        ("longest", f"{plural(forecast.longest, 'token')}, {count(forecast.batch_size)} examples in a batch"),
        ("passes", f"{plural(forecast.rows + forecast.selection_rows, 'example')} forward and backward"),
        ("memory", memory_parts(memory)),
        ("file", size(forecast.file_bytes)),
    ]
    if forecast.sampled_completions:
        rows.insert(3, ("completions", f"{count(forecast.sampled_completions)} sampled first"))
    note = "Memory does not include the base's activations and their gradients."
    blocks: list[Block] = [
        Heading("Dry run: no model was loaded", level=1),
        Facts(rows),
        Paragraph(note),
    ]
    return terminal.render(blocks, width=width, color=color)
