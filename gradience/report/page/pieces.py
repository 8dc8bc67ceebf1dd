"""What a page is made of: one part for each report, its sections, and in them blocks and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradience.artifacts.audit import AuditReport
from gradience.report.audit.series import by_step, why_no_series
from gradience.report.audit.trend import trend_blocks
from gradience.report.blocks import Block, Document, Heading, Inline, spans
from gradience.report.faces import blocks_of
from gradience.report.inputs import Source
from gradience.report.page.flips import flip_blocks
from gradience.report.page.places import PLACES
from gradience.report.plots.kinds import plots_of
from gradience.report.plots.plot import Plot
from gradience.report.plots.steps import evolution_plots


@dataclass(frozen=True, slots=True)
class Section:
    """One question with its answer."""

    title: Inline
    aside: Inline
    blocks: Sequence[Block]
    plots: Sequence[Plot]


@dataclass(frozen=True, slots=True)
class Part:
    """One report."""

    title: Inline
    opening: Sequence[Block]
    """What stands before the first section."""
    plots: Sequence[Plot]
    sections: Sequence[Section]


def parts_of(sources: Sequence[Source], *, texts: bool) -> list[Part]:
    """Return a part for each report, before them one over several audits. texts: whether answers are quoted."""
    audits = [source.report for source in sources if isinstance(source.report, AuditReport)]
    over = [_together(audits)] if len(audits) > 1 else []
    return [*over, *(part_of(source, texts=texts) for source in sources)]


def _together(audits: Sequence[AuditReport]) -> Part:
    """Several adapters side by side; of the checkpoints of one run also how they changed."""
    series = why_no_series(audits) is None
    title, opening, sections = _split(trend_blocks(by_step(audits) if series else audits))
    plots = evolution_plots(by_step(audits)) if series else []
    return Part(
        title, opening, plots, [Section(head.text, head.aside, blocks, []) for head, blocks in sections]
    )


def part_of(source: Source, *, texts: bool = True) -> Part:
    """Return a report's sections in their order, each plot in the section that it belongs to."""
    places = PLACES.get(type(source.report).__name__, {})
    plots = plots_of(source.report)
    flips = [] if source.folder is None else flip_blocks(source.report, source.folder, texts=texts)
    title, opening, sections = _split([*blocks_of(source.report), *flips])
    titles = ["".join(span.text for span in spans(heading.text)) for heading, _ in sections]
    at: dict[int, list[Plot]] = {}
    for kind, plot in plots.items():
        starts = places.get(kind, ())
        matching = (number for number, text in enumerate(titles) if text.startswith(starts))
        at.setdefault(next(matching, -1) if starts else -1, []).append(plot)
    return Part(
        title,
        opening,
        at.get(-1, []),
        [
            Section(head.text, head.aside, blocks, at.get(number, []))
            for number, (head, blocks) in enumerate(sections)
        ],
    )


def _split(document: Document) -> tuple[Inline, list[Block], list[tuple[Heading, list[Block]]]]:
    """The title, what stands before the first head of a section, and the sections."""
    title: Inline = ""
    opening: list[Block] = []
    sections: list[tuple[Heading, list[Block]]] = []
    for block in document:
        if isinstance(block, Heading) and not title:
            title = block.text
        elif isinstance(block, Heading):
            sections.append((block, []))
        elif sections:
            sections[-1][1].append(block)
        else:
            opening.append(block)
    return title, opening, sections
