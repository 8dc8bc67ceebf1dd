"""Parts of a page: one part per title of a report, with sections of blocks and plots."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradience.reports.audit import AuditReport, audits_blocks
from gradience.reports.base.blocks import Block, Document, Heading, Notes, Paragraph, filled
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.page.flips import ReadPrompts, flip_blocks
from gradience.reports.plots.plot import Plot, plots_of


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

    @property
    def command(self) -> str:
        """The command that made the report; empty if the report does not have it."""
        run = getattr(self.report, "run", None)
        return run.command if isinstance(run, RunInfo) else ""


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

    @property
    def answer(self) -> list[Block]:
        """Sentences and notes of the opening, for the summary box."""
        return [block for block in self.opening if isinstance(block, Paragraph | Notes)]

    @property
    def facts(self) -> list[Block]:
        """The other blocks of the opening."""
        return [block for block in self.opening if not isinstance(block, Paragraph | Notes)]


def parts_of(sources: Sequence[PageSource], *, texts: bool) -> list[PagePart]:
    """Return one part per title of each report, with a summary part before several audits.

    texts: True to quote examples and answers.
    """
    audits = [source.report for source in sources if isinstance(source.report, AuditReport)]
    parts: list[PagePart] = []
    for source in sources:
        if len(audits) > 1 and source.report is audits[0]:
            parts += _parts(audits_blocks(audits))
        parts += _parts_of(source, texts=texts)
    return parts


def _parts_of(source: PageSource, *, texts: bool) -> list[PagePart]:
    """Return a report's plots as its first section, and its other sections in order."""
    report = source.report if texts else source.report.without_texts()
    flips = [] if source.folder is None else flip_blocks(report, source.folder, source.prompts, texts=texts)
    first, *others = _parts([*report.blocks(), *flips])
    plots = list(plots_of(report).values())
    first.sections[:0] = [Section(Heading("Plots"), plots=plots)] if plots else []
    return [first, *others]


def _parts(document: Document) -> list[PagePart]:
    """Return the parts of a document, which begins with a title: the blocks before the first section, and sections."""
    parts: list[PagePart] = []
    at: list[Block] = []
    for block in filled(document):
        if not isinstance(block, Heading):
            at.append(block)
        elif block.level == 1:
            parts.append(PagePart(block))
            at = parts[-1].opening
        else:
            parts[-1].sections.append(Section(block))
            at = parts[-1].sections[-1].blocks
    return parts
