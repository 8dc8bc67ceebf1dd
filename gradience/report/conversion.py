"""`gradience convert`: what was written, as blocks."""

from __future__ import annotations

from gradience.reports.base import terminal
from gradience.reports.base.blocks import Document, Facts, Heading, Inline, Note, Notes, Paragraph, Span
from gradience.reports.base.numbers import count, plural, size
from gradience.reports.base.source import commit_of
from gradience.reports.conversion import ConversionReport
from gradience.words import listed


def conversion_text(report: ConversionReport, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience convert` prints."""
    return terminal.render(conversion_blocks(report), width=width, color=color)


def conversion_blocks(report: ConversionReport) -> Document:
    """Return what was made of which adapter, what has another name, and what was left out."""
    digests = " · ".join(
        [f"sha256 {report.output_sha256[:12]} from {report.source_sha256[:12]}", *commit_of(report.source)]
    )
    facts: list[tuple[str, Inline]] = [
        ("modules", f"{count(report.modules)}, {count(report.lora_params)} LoRA parameters"),
        ("tensors", f"{count(report.tensors)}, {size(report.bytes)}; renamed: {count(report.renamed)}"),
    ]
    if report.carried_files:
        facts.append(("copied as they are", Span(listed(report.carried_files, 8), "name")))
    if report.left_out_files:
        facts.append(("files left out", Span(listed(report.left_out_files, 8), "name")))
    notes = []
    if report.left_out:
        names = listed([note.tensor for note in report.left_out])
        notes.append(Note("warning", f"{plural(len(report.left_out), 'tensor')} left out: {names}"))
    if report.pickle:
        notes.append(Note("info", "read from a pickle, in a process of its own with limits"))
    return [
        Heading(("Converted to ", Span(report.output_path, "name")), level=1),
        Paragraph(("from ", Span(report.source_path, "name"), f" ({report.source_format}) to {report.to}")),
        Paragraph(Span(digests, "dim")),
        Facts(facts),
        *([Notes(notes)] if notes else []),
        Paragraph("Values and scales are what they were: nothing was truncated, rounded or trained."),
    ]
