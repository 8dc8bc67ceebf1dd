"""Parts of a page: one part per report, with sections of blocks and plots, and a summary part before several reports of
one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradience.reports.audit import AuditReport
from gradience.reports.audit_series import by_step, trend_blocks, why_no_series
from gradience.reports.base.blocks import Block, Document, Heading, Note, Notes, Paragraph, spans
from gradience.reports.base.report import Report
from gradience.reports.monitor import MonitorReport, overview_blocks
from gradience.reports.page.flips import ReadPrompts, flip_blocks
from gradience.reports.plots.audits import evolution_plots
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
    log: Path | None = None
    """The run.jsonl that was read."""


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
    plots: list[Plot] = field(default_factory=list)
    """Plots before the first section."""
    answer: list[Block] = field(default_factory=list)
    """Summary box: verdict and warnings."""
    reports: int = 1
    """Number of reports."""


def parts_of(sources: Sequence[PageSource], *, texts: bool) -> list[PagePart]:
    """Return one part per report and per run, with a summary part before several reports of one kind.

    texts: True to quote examples and answers.
    """
    single = list(_of_one_run(sources))
    parts: list[PagePart] = []
    begun: set[type] = set()
    for source in single:
        kind = type(source.report)
        if kind not in begun:
            parts += _over([other.report for other in single if isinstance(other.report, kind)])
        begun.add(kind)
        parts.append(part_of(source, texts=texts))
    if len(parts) == 1 and isinstance(single[0].report, MonitorReport):
        heading = parts[0].heading  # a file name does not describe the report
        parts[0].heading = replace(heading, text=("Training run ", *spans(heading.text)))
    return parts


def part_of(source: PageSource, *, texts: bool = True) -> PagePart:
    """Return a report's sections in order, each with its plots."""
    report = source.report if texts else source.report.without_texts()
    flips = [] if source.folder is None else flip_blocks(report, source.folder, source.prompts, texts=texts)
    part = _part([*report.blocks(), *flips])
    part.opening = [*report.page_opening(part.opening)]
    part.heading = report.page_heading(part.heading)
    titles = ["".join(span.text for span in spans(section.heading.text)) for section in part.sections]
    for kind, plot in plots_of(report).items():
        matching = (
            section
            for title, section in zip(titles, part.sections, strict=True)
            if title.startswith(report.plots[kind].sections)
        )
        next(matching, part).plots.append(plot)
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


def _of_one_run(sources: Sequence[PageSource]) -> Iterator[PageSource]:
    """Return the sources, with a report on several runs split into single runs; runs of the same name are numbered."""
    monitored = [source.report for source in sources if isinstance(source.report, MonitorReport)]
    files = Counter(run.file for report in monitored for run in report.runs)
    number: Counter[str] = Counter()
    for source in sources:
        if not isinstance(source.report, MonitorReport):
            yield source
            continue
        for run in source.report.runs:
            number[run.file] += 1
            name = f"{run.file} ({number[run.file]})" if files[run.file] > 1 else run.file
            named = run.model_copy(update={"file": name})
            yield replace(source, report=source.report.model_copy(update={"runs": (named,)}))


def _over(reports: Sequence[Report]) -> list[PagePart]:
    """Return a summary part over several audits or several runs."""
    audits = [report for report in reports if isinstance(report, AuditReport)]
    runs = [run for report in reports if isinstance(report, MonitorReport) for run in report.runs]
    if len(audits) > 1:
        series = why_no_series(audits) is None
        ordered = by_step(audits) if series else audits
        part = _part(trend_blocks(ordered))
        part.plots = evolution_plots(ordered) if series else []
        part.reports = len(audits)
        return [part]
    if len(runs) > 1:
        part = _part(overview_blocks(runs))
        part.plots = list(plots_of(reports[0].model_copy(update={"runs": tuple(runs)})).values())
        part.reports = len(runs)
        return [part]
    return []


def _part(document: Document) -> PagePart:
    """Return the title, the blocks before the first section, and the sections."""
    title, *rest = document
    assert isinstance(title, Heading)
    part = PagePart(title)
    for block in rest:
        if isinstance(block, Heading):
            part.sections.append(Section(block))
        else:
            (part.sections[-1].blocks if part.sections else part.opening).append(block)
    return part
