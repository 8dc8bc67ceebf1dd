"""A compression's plan and its report as documents. A section is one function and one line in SECTIONS.

totals.py    what is saved, what is lost?
runtimes.py  which runtimes load it?
prediction.py  predicted KL of the output, from a calibration
where.py     where is it lost? By kind of modules, and module by module
written.py   how was it written?
"""

from __future__ import annotations

from collections.abc import Callable

from gradience.report.compression.prediction import prediction_blocks
from gradience.report.compression.runtimes import runtime_blocks
from gradience.report.compression.totals import lost_blocks, saved_blocks
from gradience.report.compression.where import layer_blocks, where_blocks
from gradience.report.compression.written import written_blocks
from gradience.reports.base import terminal
from gradience.reports.base.blocks import Block, Document, Facts, Heading, Paragraph, Span
from gradience.reports.base.source import commit_of
from gradience.reports.base.view import DOCUMENT, View
from gradience.reports.compression import CompressionPlan, CompressionReport

Compression = CompressionPlan | CompressionReport

QUALITY = (
    "Quality: a small error in the weights does not prove equal answers, and weight energy says little about which "
    "module matters. Evaluate the smaller adapter beside the original, on the task (docs/quickstart.md)."
)


def compression_text(
    compression: Compression, *, width: int | None = None, color: bool = False, layers: bool = False
) -> str:
    """Return what `gradience compress` prints: with --dry-run of the plan, else of what was written.

    width: columns of the terminal; None for a file or a pipe. layers: whole lists and every module, and nothing
    points to `--layers`.
    """
    if isinstance(compression, CompressionPlan):
        steps = ["--output DIR in place of --dry-run", "--json > plan.json, and --plan plan.json"]
    else:
        steps = ["gradience compare ADAPTER SMALLER", "compression_report.md"]
    steps += [] if layers else ["--layers"]
    following = Paragraph(("Next: ", Span(" · ".join(steps), "dim")))
    blocks = compression_blocks(compression, View(brief=not layers, layers=layers))
    return terminal.render([*blocks, following], width=width, color=color)


def compression_blocks(compression: Compression, view: View = DOCUMENT) -> Document:
    """Return the sections, in the order of the questions that a reader has."""
    return [block for section in SECTIONS for block in section(compression, view)]


def title_blocks(compression: Compression, view: View) -> list[Block]:
    """Return what was made of which adapter, by which criterion."""
    if isinstance(compression, CompressionPlan):
        return [
            Heading(("Plan for ", Span(compression.adapter_path, "name")), level=1),
            Paragraph(f"{compression.criterion}. Nothing was written."),
        ]
    digests = f"sha256 {compression.output_sha256[:12]} from {compression.source_sha256[:12]}"
    digests = " · ".join([digests, *commit_of(compression.source)])
    method = "Nothing was trained: each module is the best approximation of its new rank."
    if compression.calibration_sha256 is not None:
        method = (
            "Nothing was trained: each module keeps the components with the largest effect on the output."
        )
    return [
        Heading(("Compressed to ", Span(compression.output_path, "name")), level=1),
        Paragraph(("from ", Span(compression.source_path, "name"), f" · {compression.criterion}")),
        *_difference(compression),
        Paragraph(Span(digests, "dim")),
        *([] if view.brief else [Paragraph(method)]),
    ]


def _difference(report: CompressionReport) -> list[Block]:
    if report.initial is None:
        return []
    words = (
        " of initial adapter ",
        Span(report.initial.path, "name"),
        " subtracted: sizes before are twice the adapter's",
    )
    return [Paragraph(("B₀·A₀", *words))]


def caveat_blocks(compression: Compression, view: View) -> list[Block]:
    """Return what no compression shows."""
    return [Heading("What does this not show?"), Paragraph(QUALITY)]


def provenance_blocks(compression: Compression, view: View) -> list[Block]:
    """Return what made the adapter, and the full digests; a document has them."""
    if view != DOCUMENT or isinstance(compression, CompressionPlan):
        return []
    return [
        Heading("Provenance"),
        Facts(
            [
                ("command", Span(compression.run.command, "name")),
                ("Gradience", compression.run.gradience_version),
                ("sha256 of the weights", Span(compression.output_sha256, "name")),
                ("sha256 of the original", Span(compression.source_sha256, "name")),
            ]
        ),
    ]


SECTIONS: tuple[Callable[[Compression, View], list[Block]], ...] = (
    title_blocks,
    saved_blocks,
    lost_blocks,
    prediction_blocks,
    runtime_blocks,
    where_blocks,
    written_blocks,
    caveat_blocks,
    layer_blocks,
    provenance_blocks,
)
