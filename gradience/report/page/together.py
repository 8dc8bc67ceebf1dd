"""The parts of a page: one for each report, and before several of a kind one over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradience.report.audit.series import by_step, why_no_series
from gradience.report.audit.trend import trend_blocks
from gradience.report.inputs import Source
from gradience.report.monitor_runs import overview_blocks
from gradience.report.page.pieces import Part, Section, part_of, split
from gradience.report.plots.audits import evolution_plots
from gradience.report.plots.kinds import plots_of
from gradience.report.plots.plot import Plot
from gradience.reports.audit import AuditReport
from gradience.reports.base.blocks import Document, spans
from gradience.reports.monitor import MonitorReport, RunReport


def parts_of(sources: Sequence[Source], *, texts: bool) -> list[Part]:
    """Return a part for each report and each run, before several of a kind one over all of them.

    texts: whether answers are quoted.
    """
    single = list(_of_one_run(sources))
    parts: list[Part] = []
    begun: set[type] = set()
    for source in single:
        kind = type(source.report)
        if kind not in begun:
            parts += _over([one.report for one in single if isinstance(one.report, kind)])
        begun.add(kind)
        parts.append(part_of(source, texts=texts))
    if len(parts) == 1 and isinstance(
        single[0].report, MonitorReport
    ):  # a file alone does not say what it is
        parts = [replace(parts[0], title=("Training run ", *spans(parts[0].title)))]
    return parts


def _of_one_run(sources: Sequence[Source]) -> Iterator[Source]:
    """The sources, where a report on several runs is one of each; runs of the same name have a number."""
    files = Counter(
        run.file for one in sources if isinstance(one.report, MonitorReport) for run in one.report.runs
    )
    seen: Counter[str] = Counter()
    for source in sources:
        if not isinstance(source.report, MonitorReport):
            yield source
            continue
        for run in source.report.runs:
            seen[run.file] += 1
            name = f"{run.file} ({seen[run.file]})" if files[run.file] > 1 else run.file
            named = run.model_copy(update={"file": name})
            yield replace(source, report=source.report.model_copy(update={"runs": (named,)}))


def _over(reports: Sequence[object]) -> list[Part]:
    """A part over several audits or several runs."""
    audits = [report for report in reports if isinstance(report, AuditReport)]
    monitored = [report for report in reports if isinstance(report, MonitorReport)]
    if len(audits) > 1:
        series = why_no_series(audits) is None
        blocks = trend_blocks(by_step(audits) if series else audits)
        return [_part(blocks, evolution_plots(by_step(audits)) if series else [], len(audits))]
    if len(monitored) > 1:
        runs: tuple[RunReport, ...] = tuple(run for report in monitored for run in report.runs)
        together = monitored[0].model_copy(update={"runs": runs})
        return [_part(overview_blocks(runs), list(plots_of(together).values()), len(runs))]
    return []


def _part(document: Document, plots: Sequence[Plot], reports: int) -> Part:
    title, opening, sections = split(document)
    answered = [Section(head.text, head.aside, blocks, []) for head, blocks in sections]
    return Part(title.text, title.aside, [], opening, plots, answered, reports)
