"""What a page is made of: one part for each report, its sections, and in them blocks and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradience.report.faces import blocks_of
from gradience.report.inputs import Source
from gradience.report.page.flips import flip_blocks
from gradience.report.page.in_short import in_short
from gradience.report.page.titles import heading_of
from gradience.report.plots.kinds import KINDS, plots_of
from gradience.report.plots.plot import Plot
from gradience.reports.base.blocks import Block, Document, Heading, Inline, Note, Notes, Paragraph, spans
from gradience.reports.bench import Bench


@dataclass(frozen=True, slots=True)
class Section:
    """One question with its answer."""

    title: Inline
    aside: Inline
    blocks: Sequence[Block]
    plots: Sequence[Plot]


@dataclass(frozen=True, slots=True)
class Part:
    """One report, or what several have in common."""

    title: Inline
    aside: Inline
    """Its verdict, below the title."""
    answer: Sequence[Block]
    """What a reader takes along who stops there: the verdict, and what warns of it."""
    opening: Sequence[Block]
    """What stands before the first section."""
    plots: Sequence[Plot]
    sections: Sequence[Section]
    reports: int = 1
    """How many it is about."""


def part_of(source: Source, *, texts: bool = True) -> Part:
    """Return a report's sections in their order, each plot in the section that it belongs to."""
    kinds = KINDS.get(type(source.report).__name__, {})
    plots = plots_of(source.report)
    flips = [] if source.folder is None else flip_blocks(source.report, source.folder, texts=texts)
    first, opening, sections = split([*blocks_of(source.report), *flips])
    if isinstance(source.report, Bench) and source.report.smoke:
        opening = opening[1:]  # the smallest that passes: the next sentence takes it back
    title = heading_of(source.report, first)
    titles = ["".join(span.text for span in spans(heading.text)) for heading, _ in sections]
    at: dict[int, list[Plot]] = {}
    for kind, plot in plots.items():
        starts = kinds[kind].sections
        matching = (number for number, text in enumerate(titles) if text.startswith(starts))
        at.setdefault(next(matching, -1) if starts else -1, []).append(plot)
    short = in_short(source.report)
    answer = [] if short is None else first_of(opening, short)
    return Part(
        title.text,
        title.aside,
        answer,
        [block for block in opening if block not in answer],
        at.get(-1, []),
        [
            Section(head.text, head.aside, blocks, at.get(number, []))
            for number, (head, blocks) in enumerate(sections)
        ],
    )


def first_of(opening: Sequence[Block], short: Sequence[Note]) -> list[Block]:
    """Return the verdict as the opening says it, what it rests on, and what warns of it."""
    said = [block for block in opening if isinstance(block, Paragraph)]
    warned = [block for block in opening if isinstance(block, Notes)]
    return [*said[:1], *([Notes(short)] if short else []), *said[1:], *warned]


def split(document: Document) -> tuple[Heading, list[Block], list[tuple[Heading, list[Block]]]]:
    """Return the title, what stands before the first head of a section, and the sections."""
    title: Heading | None = None
    opening: list[Block] = []
    sections: list[tuple[Heading, list[Block]]] = []
    for block in document:
        if isinstance(block, Heading) and title is None:
            title = block
        elif isinstance(block, Heading):
            sections.append((block, []))
        elif sections:
            sections[-1][1].append(block)
        else:
            opening.append(block)
    return title or Heading(""), opening, sections
