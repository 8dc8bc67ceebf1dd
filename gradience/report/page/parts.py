"""What a page is made of: a part for each report with its sections, and in them blocks and plots; before several of a
kind a part over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from gradience.report.audit.series import by_step, why_no_series
from gradience.report.audit.trend import trend_blocks
from gradience.report.faces import blocks_of
from gradience.report.inputs import Source
from gradience.report.monitor_runs import overview_blocks
from gradience.report.page.flips import flip_blocks
from gradience.report.page.opening import heading_of, in_short
from gradience.report.plots.audits import evolution_plots
from gradience.report.plots.kinds import KINDS, plots_of
from gradience.report.plots.plot import Plot
from gradience.reports.audit import AuditReport
from gradience.reports.base.blocks import Block, Document, Heading, Inline, Notes, Paragraph, spans
from gradience.reports.base.report import Report
from gradience.reports.bench import Bench
from gradience.reports.evaluation import EvaluationPreview
from gradience.reports.evidence import EvidenceReport
from gradience.reports.forecast import BenchForecast
from gradience.reports.monitor import MonitorReport
from gradience.reports.verification import Verification

LEFT_OUT = "(left out)"
RECORDS = "records.jsonl"
"""How the name of a file of records ends: what disagrees there may be an answer."""


@dataclass(slots=True)
class Section:
    """One question with its answer."""

    title: Inline
    aside: Inline
    blocks: list[Block] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


@dataclass(slots=True)
class Part:
    """One report, or what several have in common."""

    title: Inline
    aside: Inline
    """Its verdict, below the title."""
    opening: list[Block]
    """What stands before the first section."""
    sections: list[Section]
    plots: list[Plot] = field(default_factory=list)
    """Those that stand before the first section."""
    answer: list[Block] = field(default_factory=list)
    """What a reader takes along who stops there: the verdict, and what warns of it."""
    reports: int = 1
    """How many it is about."""


def parts_of(sources: Sequence[Source], *, texts: bool) -> list[Part]:
    """Return a part for each report and each run, before several of a kind one over all of them.

    texts: whether examples and answers are quoted.
    """
    single = list(_of_one_run(sources))
    parts: list[Part] = []
    begun: set[type] = set()
    for source in single:
        kind = type(source.report)
        if kind not in begun:
            parts += _over([other.report for other in single if isinstance(other.report, kind)])
        begun.add(kind)
        parts.append(part_of(source, texts=texts))
    if len(parts) == 1 and isinstance(single[0].report, MonitorReport):
        parts[0].title = ("Training run ", *spans(parts[0].title))  # a file alone does not say what it is
    return parts


def part_of(source: Source, *, texts: bool = True) -> Part:
    """Return a report's sections in their order, each plot in the section that it belongs to."""
    report = source.report if texts else without_texts(source.report)
    flips = [] if source.folder is None else flip_blocks(report, source.folder, texts=texts)
    part = _part([*blocks_of(report), *flips])
    if isinstance(report, Bench) and report.smoke:
        part.opening = part.opening[1:]  # the smallest that passes: the next sentence takes it back
    heading = heading_of(report, Heading(part.title, aside=part.aside))
    part.title, part.aside = heading.text, heading.aside
    titles = ["".join(span.text for span in spans(section.title)) for section in part.sections]
    kinds = KINDS.get(type(report).__name__, {})
    for kind, plot in plots_of(report).items():
        matching = (
            section
            for title, section in zip(titles, part.sections, strict=True)
            if title.startswith(kinds[kind].sections)
        )
        next(matching, part).plots.append(plot)
    short = in_short(report)
    if short is not None:  # the verdict as the opening says it, what it rests on, and what warns of it
        said = [block for block in part.opening if isinstance(block, Paragraph)]
        warned = [block for block in part.opening if isinstance(block, Notes)]
        part.answer = [*said[:1], *([Notes(short)] if short else []), *said[1:], *warned]
        part.opening = [block for block in part.opening if block not in part.answer]
    return part


def without_texts(report: Report) -> Report:
    """Return the report without the examples and answers that it quotes; identities and scores stay."""
    match report:
        case EvidenceReport():
            flips = tuple(replace(flip, excerpt="", answer_a="", answer_b="") for flip in report.flips)
            return report.model_copy(update={"flips": flips})
        case BenchForecast():
            return report.model_copy(update={"example": None, "scored": ()})
        case EvaluationPreview():
            return report.model_copy(update={"scored": ()})
        case Verification():
            mismatches = tuple(
                row.model_copy(update={"what": LEFT_OUT}) if row.file.endswith(RECORDS) else row
                for row in report.mismatches
            )
            blank = {"recorded": LEFT_OUT, "again": LEFT_OUT}
            again = tuple(
                run.model_copy(
                    update={"differing": tuple(row.model_copy(update=blank) for row in run.differing)}
                )
                for run in report.regenerated or ()
            )
            return report.model_copy(update={"mismatches": mismatches, "regenerated": again})
    return report


def _of_one_run(sources: Sequence[Source]) -> Iterator[Source]:
    """The sources, where a report on several runs is one of each; runs of the same name have a number."""
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


def _over(reports: Sequence[Report]) -> list[Part]:
    """A part over several audits or several runs."""
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


def _part(document: Document) -> Part:
    """The title, what stands before the first head of a section, and the sections."""
    title, *rest = document
    assert isinstance(title, Heading)
    part = Part(title.text, title.aside, [], [])
    for block in rest:
        if isinstance(block, Heading):
            part.sections.append(Section(block.text, block.aside))
        else:
            (part.sections[-1].blocks if part.sections else part.opening).append(block)
    return part
