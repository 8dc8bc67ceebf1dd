"""What takes the space? Where it is not LoRA weights of 16 bits alone."""

from __future__ import annotations

from gradience.report.audit.trust import number_types
from gradience.report.audit.view import View
from gradience.report.incomplete import reasons
from gradience.reports.audit import AuditReport
from gradience.reports.base.blocks import Block, Heading, figures
from gradience.reports.base.numbers import percent, size

NARROW = 2
"""Bytes of a number in 16 bits, in which servers hold adapters."""
WORTH_TELLING = 0.1
"""Share of the file beside the LoRA weights from which on they are no longer what matters."""


def space_blocks(report: AuditReport, view: View) -> list[Block]:
    """Return the bytes of the LoRA weights, also in 16 bits, and of the rest; nothing where there is no more to say."""
    total = report.adapter.bytes
    lora = sum(layer.bytes for layer in report.layers)
    narrow = NARROW * sum(layer.params for layer in report.layers)
    rest = max(0, total - lora)
    if lora <= narrow and rest < WORTH_TELLING * total:
        return []
    notes = (*report.coverage.other, *report.coverage.unaudited)
    rows = [("LoRA weights", f"{size(lora)}, {percent(lora / total)}", number_types(report))]
    if lora > narrow:
        largest = max(layer.r for layer in report.layers)
        rows.append(("in 16 bits", size(narrow), f"compress ADAPTER --rank {largest} --dtype BF16"))
    if notes:
        rows.append(("other weights", f"{size(rest)}, {percent(rest / total)}", reasons(notes)))
    return [Heading("What takes the space?", aside=f"{size(total)} on disk"), figures(rows)]
