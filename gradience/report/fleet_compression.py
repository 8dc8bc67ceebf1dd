"""`gradience compress --fleet`: what became of each adapter of the batch."""

from __future__ import annotations

from gradience.reports.base import terminal
from gradience.reports.base.blocks import Column, Document, Heading, Inline, Notes, Paragraph, Span, Table
from gradience.reports.base.blocks import Note as OneNote
from gradience.reports.base.numbers import count, percent, plural, size
from gradience.reports.fleet_compression import FleetCompression, Truncated

SHOWN = 10
"""Adapters of each kind on the screen."""


def fleet_compression_text(report: FleetCompression, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience compress --fleet` prints."""
    return terminal.render(fleet_compression_blocks(report, shown=SHOWN), width=width, color=color)


def fleet_compression_blocks(report: FleetCompression, shown: int | None = None) -> Document:
    """Return totals, the adapters that were written, the costliest first, and those that were not."""
    there = [adapter for adapter in report.adapters if adapter.status in ("written", "reused")]
    there.sort(key=lambda adapter: -(adapter.measured_error or 0.0))
    small = [adapter for adapter in report.adapters if adapter.status == "small enough"]
    refused = [adapter for adapter in report.adapters if adapter.status == "failed"]
    saved = f"{size(report.old_bytes)} to {size(report.new_bytes)}" if there else "nothing written"
    blocks: list[Document] = [
        [
            Heading(f"{plural(len(report.adapters), 'adapter')} to rank {count(report.rank)}", level=1),
            Paragraph(
                f"{count(report.written)} written, {count(report.reused)} from an earlier run,"
                f" {count(report.small_enough)} small enough, {count(report.failed)} failed · {saved}"
            ),
        ],
        _section("Smaller, the largest error first", there, shown),
        _section("Small enough: left where they are", small, shown),
        _refused(refused, shown),
    ]
    if there:
        advice = "the errors are of the weights: evaluate what matters (gradience evaluate, gradience shrink)"
        blocks.append([Notes([OneNote("info", advice)])])
    return [block for part in blocks for block in part]


def _section(title: str, adapters: list[Truncated], shown: int | None) -> Document:
    if not adapters:
        return []
    columns = [Column("adapter"), Column("r", ">"), Column("error", ">")]
    return [
        Heading(title),
        Table(columns, [_row(adapter) for adapter in adapters[:shown]]),
        *_more(adapters, shown),
    ]


def _row(adapter: Truncated) -> list[Inline]:
    rank = "" if adapter.old_rank is None else count(adapter.old_rank)
    error = percent(adapter.measured_error) if adapter.new_bytes is not None else ""
    return [Span(adapter.path, "name"), rank, error]


def _refused(adapters: list[Truncated], shown: int | None) -> Document:
    if not adapters:
        return []
    notes = [
        OneNote(
            "error",
            (Span(adapter.error or "", "bad"), ": ", Span(adapter.path, "name")),
            [adapter.message or ""],
        )
        for adapter in adapters[:shown]
    ]
    return [Heading("What could not be compressed?"), Notes(notes), *_more(adapters, shown)]


def _more(adapters: list[Truncated], shown: int | None) -> Document:
    hidden = len(adapters) - len(adapters[:shown])
    return [Paragraph(Span(f"and {count(hidden)} more", "dim"))] if hidden else []
