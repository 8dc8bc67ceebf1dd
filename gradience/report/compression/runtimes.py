"""Which runtimes load it? What was run first, then what was not; equal reasons are one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.reports.base.blocks import Block, Heading, Mark, Note, Notes, Paragraph, Span
from gradience.reports.base.view import View
from gradience.reports.compression import CompressionPlan, CompressionReport, RuntimeVerdict, Verdict

SAID: dict[Verdict, tuple[Mark, str, str]] = {
    "loads": ("good", "loads it", "load it"),
    "wrong scale": ("error", "loads it with a wrong scale, silently", "load it with a wrong scale, silently"),
    "wrong meaning": ("error", "loads it and gets it wrong, silently", "load it and get it wrong, silently"),
    "refuses": ("error", "refuses it", "refuse it"),
    "not run": ("unknown", "", ""),
}
"""A mark, what is said of one runtime, and of several; the good news first, then what goes wrong in silence."""


def runtime_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return verdicts on what was written; nothing of a plan, or of a format that the runtimes do not read."""
    if isinstance(compression, CompressionPlan) or not compression.runtimes:
        return []
    run = [row for row in compression.runtimes if row.run]
    pages = ", ".join(dict.fromkeys(row.run.partition("#")[0] for row in run))
    titles = (f"Run on {compression.architecture} with such tensors ({pages}):", "Not run:")
    blocks: list[Block] = [Heading("Which runtimes load it?")]
    for title, rows in zip(titles, (run, [row for row in compression.runtimes if not row.run]), strict=True):
        blocks += [Paragraph(Span(title, "dim")), Notes(runtime_notes(rows))] if rows else []
    return blocks


def runtime_notes(runtimes: Iterable[RuntimeVerdict]) -> list[Note]:
    """Return one note for all runtimes with one verdict for one reason."""
    alike: dict[tuple[Verdict, str], list[str]] = {}
    for row in runtimes:
        alike.setdefault((row.verdict, row.why), []).append(f"{row.runtime} {row.version}")
    order = list(SAID)
    ordered = sorted(alike, key=lambda key: order.index(key[0]))  # stable: else in the order of the record
    return [_note(alike[key], *key) for key in ordered]


def _note(names: Sequence[str], verdict: Verdict, why: str) -> Note:
    mark, *words = SAID[verdict]
    said = " ".join(filter(None, (", ".join(names), words[len(names) > 1])))
    if why:
        said += f", {why}" if verdict == "loads" else f": {why}"
    return Note(mark, said)
