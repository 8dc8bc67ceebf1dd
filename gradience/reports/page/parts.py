"""Parts of a page: one part per report, with sections of blocks and plots, and a summary part before several reports of
one kind."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradience.reports.audit import AuditReport, audits_blocks
from gradience.reports.base.blocks import Block, Document, Heading, Note, Notes, Paragraph
from gradience.reports.base.report import Report
from gradience.reports.monitor import MonitorReport, overview_blocks
from gradience.reports.page.flips import ReadPrompts, flip_blocks
from gradience.reports.plots.kinds import plots_of
from gradience.reports.plots.plot import Plot


@dataclass(frozen=True, slots=True)
class PageSource:
    """A report and its source."""

    name: str
    """Name on the page, without the full path, because pages are shared."""
    report: Report
    sha256: str = ""
    """sha256 of the file; empty if the report was not read from a file."""
    verify: str = ""
    """The command that verifies it."""
    folder: Path | None = None
    """Folder of the records that the report names; None if there is none."""
    prompts: ReadPrompts | None = None
    """Reads the prompts of its examples back, if the data are on this machine."""


@dataclass(slots=True)
class Section:
    """One section of a report."""

    heading: Heading
    blocks: list[Block] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


@dataclass(slots=True)
class PagePart:
    """One report, or a summary of several."""

    heading: Heading
    """Its title, with the verdict as the aside."""
    opening: list[Block] = field(default_factory=list)
    """Blocks before the first section."""
    sections: list[Section] = field(default_factory=list)
    answer: list[Block] = field(default_factory=list)
    """Summary box: verdict and warnings."""


def parts_of(sources: Sequence[PageSource], *, texts: bool) -> list[PagePart]:
    """Return one part per report and per run, with a summary part before several audits and before several runs.

    texts: True to quote examples and answers.
    """
    audits = [source.report for source in sources if isinstance(source.report, AuditReport)]
    parts: list[PagePart] = []
    for source in sources:
        report = source.report
        if len(audits) > 1 and report is audits[0]:
            parts.append(_part(audits_blocks(audits)))
        if isinstance(report, MonitorReport) and len(report.runs) > 1:
            parts.append(_part(overview_blocks(report.runs), plots_of(report)))
            for run in report.runs:
                single = report.model_copy(update={"runs": (run,)})
                parts.append(part_of(replace(source, report=single), texts=texts))
        else:
            parts.append(part_of(source, texts=texts))
    return parts


def part_of(source: PageSource, *, texts: bool = True) -> PagePart:
    """Return a report's plots as its first section, and its other sections in order."""
    report = source.report if texts else source.report.without_texts()
    flips = [] if source.folder is None else flip_blocks(report, source.folder, source.prompts, texts=texts)
    part = _part([*report.blocks(), *flips], plots_of(report))
    short = report.summary()
    if short is not None:  # verdict, evidence and warnings
        sentences = [block for block in part.opening if isinstance(block, Paragraph)]
        warnings = [block for block in part.opening if isinstance(block, Notes)]
        part.answer = [*sentences[:1], *([Notes(short)] if short else []), *sentences[1:], *warnings]
        part.opening = [block for block in part.opening if block not in part.answer]
        for section in part.sections:  # the box is not repeated
            section.blocks = list(_without(section.blocks, short))
    return part


def _without(blocks: Sequence[Block], notes: Sequence[Note]) -> Iterator[Block]:
    for block in blocks:
        rest = [note for note in block.notes if note not in notes] if isinstance(block, Notes) else []
        if rest or not isinstance(block, Notes):
            yield replace(block, notes=rest) if isinstance(block, Notes) else block


def _part(document: Document, plots: Mapping[str, Plot] | None = None) -> PagePart:
    """Return the title, the blocks before the first section, the plots, and the sections."""
    title, *rest = document
    assert isinstance(title, Heading)
    part = PagePart(title)
    if plots:
        part.sections.append(Section(Heading("Plots"), plots=list(plots.values())))
    at = part.opening
    for block in rest:
        if isinstance(block, Heading):
            part.sections.append(Section(block))
            at = part.sections[-1].blocks
        else:
            at.append(block)
    return part
