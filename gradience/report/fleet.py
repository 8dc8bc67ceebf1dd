"""`gradience fleet`: what a server needs for all adapters, what a lower step costs, copies, and what failed."""

from __future__ import annotations

import shlex

from gradience.reports.base import terminal
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
from gradience.reports.base.numbers import MISSING, count, max_lora_rank, percent, plural, sig, size
from gradience.reports.base.view import first_names
from gradience.reports.fleet import BaseGroup, FleetReport, Forcing

SHOWN_BASES, SHOWN_FORCING, SHOWN_GROUPS, SHOWN_COPIES = 5, 5, 8, 3
"""On the screen; Markdown and JSON list more."""
LISTED = 100
"""Forcing adapters of one base and groups of copies in a document."""


def fleet_text(report: FleetReport, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience fleet` prints."""
    return terminal.render(fleet_blocks(report, brief=True), width=width, color=color)


def fleet_blocks(report: FleetReport, *, brief: bool = False) -> Document:
    """Return the whole document, or with `brief` the shorter lists of a screen."""
    bases = report.bases[: SHOWN_BASES if brief else None]
    return [
        *_title(report),
        *_serving(report),
        *(block for base in bases for block in _lower_steps(base, brief=brief)),
        *_next(report),
        *_copies(report, brief=brief),
        *_failures(report),
        Heading("What does this not show?"),
        Paragraph(
            f"Quality: lost energy is a crude guide to it. Slots are as {report.engine} held them when it was run, for"
            " the modules that the adapters have; unless told otherwise it makes room in all others, too."
        ),
    ]


def _title(report: FleetReport) -> list[Block]:
    said = [
        f"{size(report.bytes)}, {count(report.params)} LoRA parameters",
        f"{count(report.measured)} measured now, {count(report.reused)} unchanged since an earlier run",
    ]
    if report.elsewhere:
        said.append(f"{plural(report.elsewhere, 'folder')} without an adapter")
    notes = []
    if report.failed:
        notes.append(Note("error", f"{plural(report.failed, 'adapter')} could not be measured: see below"))
    if report.incomplete:
        notes.append(
            Note("warning", f"{plural(report.incomplete, 'adapter')} measured in part (status incomplete)")
        )
    if report.untrained:
        notes.append(Note("warning", f"{plural(report.untrained, 'adapter')} untrained: every B·A is 0"))
    return [
        Heading(plural(report.adapters, "adapter"), level=1),
        Paragraph(" · ".join(said)),
        *([Notes(notes)] if notes else []),
    ]


def _base(base: BaseGroup) -> Span:
    return Span(base.base_model, "name") if base.base_model else Span("(no base model named)", "dim")


def _serving(report: FleetReport) -> list[Block]:
    """Each base with the step that its largest adapter needs."""
    if not report.bases:
        return []
    columns = [
        Column("base model"),
        Column("adapters", ">"),
        Column("largest r", ">"),
        Column("max_lora_rank", ">"),
        Column("per slot ≥", ">"),
        Column("on disk", ">", drop=1),
    ]
    rows: list[list[Inline]] = [
        [
            _base(base),
            count(base.adapters),
            count(base.largest_rank),
            Span(max_lora_rank(base.max_lora_rank), "strong"),
            MISSING if base.slot_bytes is None else size(base.slot_bytes),
            size(base.bytes),
        ]
        for base in report.bases
    ]
    return [Heading("What must a server hold?", aside=report.engine), Table(columns, rows)]


def _lower_steps(base: BaseGroup, *, brief: bool) -> list[Block]:
    """What each lower step takes, and who stands above the next one."""
    if not base.steps:
        return []
    columns = [
        Column("max_lora_rank", ">"),
        Column("per slot ≥", ">"),
        Column("to truncate", ">"),
        Column("energy lost, median", ">"),
        Column("most", ">"),
    ]
    rows = [
        [
            str(step.max_lora_rank),
            size(step.slot_bytes),
            f"{count(step.truncated)} of {count(base.adapters)}",
            percent(step.lost_energy_median),
            percent(step.lost_energy_max),
        ]
        for step in base.steps
    ]
    return [
        Heading(("What would a lower step take?  ", _base(base))),
        Table(columns, rows),
        *_forcing(base, brief=brief),
    ]


def _forcing(base: BaseGroup, *, brief: bool) -> list[Block]:
    step = base.steps[0]
    shown = base.forcing[: SHOWN_FORCING if brief else LISTED]
    calibrated = any(adapter.predicted_kl is not None for adapter in base.forcing)
    columns = [
        Column(f"above {step.max_lora_rank}"),
        Column("r", ">"),
        Column("energy lost", ">"),
        *([Column("predicted KL", ">")] if calibrated else []),
    ]
    blocks: list[Block] = [Table(columns, [_forcing_row(adapter, calibrated) for adapter in shown])]
    if step.truncated > len(shown):
        blocks.append(Paragraph(Span(f"and {count(step.truncated - len(shown))} more", "dim")))
    return blocks


def _next(report: FleetReport) -> list[Block]:
    """The command that brings all to the next step of the first base."""
    steps = [base.steps[0].max_lora_rank for base in report.bases if base.steps]
    if not steps:
        return []
    if report.rows_file is None:
        advice = "Next: -o fleet.jsonl keeps the rows; gradience compress --fleet brings them to one rank"
        return [Paragraph(Span(advice, "dim"))]
    root = "" if report.root == "." else " --root ROOT"
    command = f"gradience compress --fleet {shlex.quote(report.rows_file)}{root} --to-rank {steps[0]} -o DIR"
    every = "  (every base)" if len(steps) > 1 else ""
    return [Paragraph(Span(f"Next: {command}{every}", "dim"))]


def _forcing_row(adapter: Forcing, calibrated: bool) -> list[Inline]:
    cells: list[Inline] = [Span(adapter.path, "name"), count(adapter.rank), percent(adapter.lost_energy)]
    return [*cells, sig(adapter.predicted_kl)] if calibrated else cells


def _copies(report: FleetReport, *, brief: bool) -> list[Block]:
    if not report.copies:
        return []
    groups = report.copies[: SHOWN_GROUPS if brief else LISTED]
    rows: list[list[Inline]] = [
        [
            group.kind,
            count(len(group.paths)),
            "" if group.kind == "same file" else percent(group.difference),
            first_names(group.paths, SHOWN_COPIES if brief else len(group.paths)),
        ]
        for group in groups
    ]
    columns = [
        Column("copies"),
        Column("adapters", ">"),
        Column("difference ≤", ">"),
        Column("which", wrap=True),
    ]
    hidden = len(report.copies) - len(groups)
    more: list[Block] = [Paragraph(Span(f"and {count(hidden)} more groups", "dim"))] if hidden else []
    return [
        Heading("Which are the same?", aside="by ΔW, in whatever factors"),
        Table(columns, rows),
        *more,
    ]


ALLOWED = "Add --allow-pickle to read it in a sandboxed process."


def _failures(report: FleetReport) -> list[Block]:
    if not report.failures:
        return []
    notes = [
        Note(
            "error",
            _failing(failure.code, failure.adapters, failure.first),
            [failure.message, *([ALLOWED] if failure.code == "pickle" else [])],
        )
        for failure in report.failures
    ]
    return [Heading("What could not be measured?"), Notes(notes)]


def _failing(code: str, adapters: int, first: str) -> Inline:
    """`pickle: 5 adapters, such as zoo/a`, or the one."""
    several = f": {plural(adapters, 'adapter')}, such as " if adapters > 1 else ": "
    return (Span(code, "bad"), several, Span(first, "name"))
