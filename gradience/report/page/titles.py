"""Titles of pages: what of which adapter, run or model. A tab of a browser and a link that is shared show nothing else.

Reports whose own title says so are not named here: on a screen the command stands above it.
"""

from __future__ import annotations

from dataclasses import replace

from gradience.report.bench.sections import SMOKE_STATUS, status
from gradience.report.compression.totals import saved
from gradience.reports.base.blocks import Heading, Inline, Span, spans
from gradience.reports.base.numbers import percent, plural
from gradience.reports.base.report import Report
from gradience.reports.bench import Bench
from gradience.reports.check import CheckReport
from gradience.reports.comparison import ComparisonReport
from gradience.reports.compression import CompressionPlan, CompressionReport
from gradience.reports.evaluation import REFERENCE, EvaluationForecast, EvaluationPreview, EvaluationReport
from gradience.reports.evidence import EvidenceReport
from gradience.reports.fleet import FleetReport
from gradience.reports.forecast import BenchForecast
from gradience.reports.shrink import ShrinkForecast, ShrinkReport

FEW = 2
"""Adapters that a title names."""


def heading_of(report: Report, heading: Heading) -> Heading:
    """Return the title of the report's page, below it in one line what it comes to.

    heading: the report's own title.
    """
    match report:
        case Bench() if report.smoke:  # its status is no verdict
            before, _, *after = spans(heading.text)
            return replace(heading, text=(before, status(SMOKE_STATUS), *after))
        case ShrinkReport():
            return _named("Shrink of ", report.plan.adapter, " on ", report.plan.task)
        case EvaluationReport():
            return Heading(_evaluation(report))
        case EvidenceReport():
            return _named("Evidence: ", report.b.path, " against ", report.a.path)
        case ComparisonReport():
            return _named("Comparison of ", report.path_a, " and ", report.path_b)
        case CheckReport():
            name = report.files[0].path if report.files else report.settings.base_model
            return _named("Check of ", name, " before training") if name else heading
        case CompressionPlan() | CompressionReport():
            return Heading(heading.text, aside=_compression(report))
        case FleetReport():
            return Heading(f"Fleet of {plural(report.adapters, 'adapter')}")
        case BenchForecast():
            return _named("Plan of a Bench run: ", report.model, " on ", report.task, heading=heading)
        case EvaluationForecast():
            name = (
                report.adapters[-1]
                if len(report.adapters) <= FEW
                else plural(len(report.adapters), "adapter")
            )
            return _named("Plan of an evaluation: ", name, " on ", report.task, heading=heading)
        case ShrinkForecast():
            return _named(
                "Plan of a shrink: ", report.plan.adapter, " on ", report.plan.task, heading=heading
            )
        case EvaluationPreview():
            return _named("What ", report.base, " would see of ", report.task, heading=heading)
    return heading


def _named(*parts: str, heading: Heading | None = None) -> Heading:
    """Words and names by turns; what the report's own title says stands below."""
    text = tuple(Span(part, "name") if place % 2 else part for place, part in enumerate(parts))
    return Heading(text, aside=heading.text if heading else "")


def _evaluation(report: EvaluationReport) -> Inline:
    task: tuple[str | Span, ...] = (" on ", Span(report.task, "name"))
    reference = next((row.name for row in report.adapters if row.role == REFERENCE), "")
    others = [row.name for row in report.adapters if row.role == "candidate"]
    if not others:
        return ("Evaluation of ", Span(reference, "name"), *task)
    names = (
        [part for name in others for part in (Span(name, "name"), " and ")][:-1]
        if len(others) <= FEW
        else [plural(len(others), "adapter")]
    )
    return ("Evaluation of ", *names, " against ", Span(reference, "name"), *task)


def _compression(compression: CompressionPlan | CompressionReport) -> str:
    """`50.0 % saved of the LoRA parameters, 98.9 % of the energy kept`."""
    parameters = saved(compression.old_params, compression.new_params)
    return f"LoRA parameters: {parameters}; {percent(compression.kept_energy)} of the energy kept"
