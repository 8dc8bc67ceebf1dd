"""`fleet_compression.json`: a batch of adapters that was brought to one rank."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from gradience.files.artifact import ROW_CONFIG, Float12
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
)
from gradience.reports.base.numbers import count, percent, plural, size
from gradience.reports.base.report import PlotOf, Plots, Report
from gradience.reports.base.run import RunInfo

TruncationStatus = Literal["written", "reused", "small enough", "failed"]


@dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class Truncated:
    """What became of one adapter of the batch."""

    path: str
    status: TruncationStatus
    """`reused`: an earlier run of the same batch has written it. `small enough`: left as it is, nothing written."""
    old_rank: int | None = None
    old_bytes: int | None = None
    new_bytes: int | None = None
    measured_error: Float12 | None = None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F."""
    error: str | None = None
    """Code of the error."""
    message: str | None = None


class FleetCompression(Report):
    """A batch of adapters, brought to one rank: `fleet_compression.json` in the folder of the batch.

    >>> batch = compress_fleet("fleet.jsonl", "batch", rank=4)
    >>> batch.written, batch.small_enough, batch.failed
    (2, 1, 0)
    """

    row_field: ClassVar[str] = "adapters"
    repair: ClassVar[str] = "run the batch again: finished adapters are kept"
    plots: ClassVar[Plots] = {
        "bytes": PlotOf("sizes:truncated_bytes_plot", ("Smaller",)),
        "error": PlotOf("sizes:truncated_error_plot", ("Smaller",)),
    }

    schema_: Literal["gradience.fleet_compression/1"] = Field(
        default="gradience.fleet_compression/1", alias="schema"
    )
    rank: int
    written: int
    reused: int
    small_enough: int
    failed: int
    old_bytes: int
    """Of those that were written or reused."""
    new_bytes: int
    adapters: tuple[Truncated, ...]
    run: RunInfo

    def blocks(self) -> Document:
        """Return totals and every adapter."""
        return _batch_blocks(self)

    def screen(self) -> Document:
        """Return totals and the first adapters of each kind."""
        return _batch_blocks(self, SHOWN)


SHOWN = 10
"""Adapters of each kind on the screen."""


def _batch_blocks(report: FleetCompression, shown: int | None = None) -> Document:
    """Return totals, the adapters that were written, the costliest first, and those that were not."""
    written = [adapter for adapter in report.adapters if adapter.status in ("written", "reused")]
    written.sort(key=lambda adapter: -(adapter.measured_error or 0.0))
    small = [adapter for adapter in report.adapters if adapter.status == "small enough"]
    failed = [adapter for adapter in report.adapters if adapter.status == "failed"]
    saved = f"{size(report.old_bytes)} to {size(report.new_bytes)}" if written else "nothing written"
    blocks: list[Block] = [
        Heading(f"{plural(len(report.adapters), 'adapter')} to rank {count(report.rank)}", level=1),
        Paragraph(
            f"{count(report.written)} written, {count(report.reused)} from an earlier run,"
            f" {count(report.small_enough)} small enough, {count(report.failed)} failed · {saved}"
        ),
    ]
    for title, adapters in (
        ("Smaller, the largest error first", written),
        ("Small enough: left where they are", small),
    ):
        rows: list[list[Inline]] = []
        for adapter in adapters[:shown]:
            rank = "" if adapter.old_rank is None else count(adapter.old_rank)
            error = percent(adapter.measured_error) if adapter.new_bytes is not None else ""
            rows.append([Span(adapter.path, "name"), rank, error])
        if rows:
            columns = [Column("adapter"), Column("r", ">"), Column("error", ">")]
            blocks += [Heading(title), Table(columns, rows), *_more(len(adapters) - len(rows))]
    notes = []
    for adapter in failed[:shown]:
        text = (Span(adapter.error or "", "bad"), ": ", Span(adapter.path, "name"))
        notes.append(Note("error", text, [adapter.message or ""]))
    if notes:
        blocks += [Heading("What could not be compressed?"), Notes(notes), *_more(len(failed) - len(notes))]
    if written:
        advice = "the errors are of the weights: evaluate what matters (gradience evaluate, gradience shrink)"
        blocks.append(Notes([Note("info", advice)]))
    return blocks


def _more(hidden: int) -> list[Block]:
    return [Paragraph(Span(f"and {count(hidden)} more", "dim"))] if hidden else []
