"""What a page is made of: one part for each report, its sections, and in them blocks and plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradience.artifacts.report import Report
from gradience.report.blocks import Block, Document, Heading, Inline, spans
from gradience.report.faces import blocks_of
from gradience.report.page.places import PLACES
from gradience.report.plots.kinds import plots_of
from gradience.report.plots.plot import Plot


@dataclass(frozen=True, slots=True)
class Source:
    """A report and where it comes from."""

    name: str
    """As it was given."""
    report: Report
    sha256: str = ""
    """Of the file; empty where the report was not read from one."""
    verify: str = ""
    """The command that verifies it."""


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
    source: Source


def part_of(source: Source) -> Part:
    """Return a report's sections in their order, each plot in the section that it belongs to."""
    places = PLACES.get(type(source.report).__name__, {})
    plots = plots_of(source.report)
    title, opening, sections = _split(blocks_of(source.report))
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
        source,
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
