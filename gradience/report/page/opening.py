"""How a page begins: what it is called, and for who reads no further the verdict, its grade with the reason, the
smallest rank.

A tab of a browser and a link that is shared show nothing else than the title. Reports whose own title says of which
adapter, run or model they are are not named here: on a screen the command stands above it.
"""

from __future__ import annotations

from dataclasses import replace

from gradience.bench.verdict.conditions import as_expected
from gradience.report.bench.sections import SMOKE_STATUS, status
from gradience.report.compression.totals import saved
from gradience.report.evaluation import base_blocks
from gradience.report.evidence import GRADES
from gradience.report.shrink import answer
from gradience.reports.base.blocks import Heading, Inline, Mark, Note, Notes, Span, spans
from gradience.reports.base.graded import Grade
from gradience.reports.base.numbers import percent, plural
from gradience.reports.base.report import Report
from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_aggregate import BenchAggregate
from gradience.reports.check import CheckReport
from gradience.reports.comparison import ComparisonReport
from gradience.reports.compression import CompressionPlan, CompressionReport
from gradience.reports.evaluation import (
    REFERENCE,
    EvaluationForecast,
    EvaluationPreview,
    EvaluationReport,
)
from gradience.reports.evidence import EvidenceReport
from gradience.reports.fleet import FleetReport
from gradience.reports.forecast import BenchForecast
from gradience.reports.shrink import ShrinkForecast, ShrinkReport
from gradience.words import listed, noun

FEW = 2
"""Adapters that a title names."""
NAMED = 3
"""Candidates that are named of those without a verdict."""
OTHERS: tuple[tuple[Grade, Mark, str], ...] = (
    ("C", "unknown", "neither shown to be as good nor to be worse"),
    ("D", "warning", "shown to be worse than the margin allows"),
    ("X", "warning", "not to be compared"),
)
ONE_TRAINING = Note(
    "info", "This is about these adapters. Whether another training run would come out the same is not shown."
)


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
            parameters = saved(report.old_params, report.new_params)
            kept = percent(report.kept_energy)
            return Heading(heading.text, aside=f"LoRA parameters: {parameters}; {kept} of the energy kept")
        case FleetReport():
            return Heading(f"Fleet of {plural(report.adapters, 'adapter')}")
        case BenchForecast():
            named = _named("Plan of a Bench run: ", report.model, " on ", report.task)
        case EvaluationForecast():
            number = len(report.adapters)
            name = report.adapters[-1] if number <= FEW else plural(number, "adapter")
            named = _named("Plan of an evaluation: ", name, " on ", report.task)
        case ShrinkForecast():
            named = _named("Plan of a shrink: ", report.plan.adapter, " on ", report.plan.task)
        case EvaluationPreview():
            named = _named("What ", report.base, " would see of ", report.task)
        case _:
            return heading
    return replace(named, aside=heading.text)


def _named(*parts: str) -> Heading:
    """Words and names by turns."""
    return Heading(tuple(Span(part, "name") if place % 2 else part for place, part in enumerate(parts)))


def _evaluation(report: EvaluationReport) -> Inline:
    task = (" on ", Span(report.task, "name"))
    reference = Span(next((row.name for row in report.adapters if row.role == REFERENCE), ""), "name")
    others = [Span(row.name, "name") for row in report.adapters if row.role == "candidate"]
    if not others:
        return ("Evaluation of ", reference, *task)
    names: tuple[str | Span, ...] = (plural(len(others), "adapter"),)
    if len(others) <= FEW:
        names = (others[0], *(part for name in others[1:] for part in (" and ", name)))
    return ("Evaluation of ", *names, " against ", reference, *task)


def in_short(report: Report) -> list[Note] | None:
    """Return what stands first, beside the opening of the report; None for one that has no verdict, or too many."""
    match report:
        case Bench() if report.smoke:
            return None
        case Bench() | BenchAggregate():
            return _bench(report)
        case ShrinkReport():
            return [answer(report), *([ONE_TRAINING] if report.smallest is not None else [])]
        case EvaluationReport():
            return _evaluated(report)
        case EvidenceReport():
            mark, words = GRADES[report.grade]
            return [Note(mark, report.verdict, [f"grade {report.grade}: {words}"])]
    return None


def _bench(run: Bench | BenchAggregate) -> list[Note]:
    """Controls that came out otherwise than they must, since then the others' verdicts mean little; the grade of the
    best; and the smallest rank of the ladder, which is no variant of the policy."""
    notes = [
        Note("warning", f"{control.name}: not as a control must be. See Controls.")
        for control in run.controls
        if as_expected(control.name, control.status) is False
    ]
    for variant in run.variants:
        evidence = variant.evidence
        if run.best is not None and variant.name == run.best.name and evidence and evidence.grade:
            mark, _ = GRADES[evidence.grade]
            notes.append(Note(mark, f"Grade {evidence.grade}: {evidence.reason}."))
    if run.ladder is not None:
        keeps = ""
        for step in run.steps:
            share = step.reduction if isinstance(step, VariantResult) else step.mean_reduction
            if step.name == run.ladder.smallest_safe and share is not None:
                keeps = f" It has {percent(share)} fewer LoRA parameters."
        sentence = f"Ladder of truncations: {run.ladder.sentence.removesuffix('.')}.{keeps}"
        notes.append(Note("good" if run.ladder.smallest_safe else "unknown", sentence))
    return notes


def _evaluated(report: EvaluationReport) -> list[Note] | None:
    """The smallest that is as good, and how many of the others are what; whether the reference does anything."""
    graded = [row for row in report.candidates if row.grade is not None]
    if not graded:
        return None
    notes: list[Note] = []
    good = [row for row in graded if row.grade in ("A", "B")]
    if good:
        best = max(good, key=lambda row: row.params_saved or 0.0)
        text = " is the smallest that is as good" if len(graded) > 1 else " is as good"
        if best.params_saved is not None:
            text += f", with {percent(best.params_saved)} fewer LoRA parameters"
        others = [row.name for row in good if row is not best]
        also = [("As good: ", Span(listed(others, NAMED), "name"))] if others else []
        verdict = f"{text}: {best.grade}, {best.reason}"
        notes += [Note("good", (Span(best.name, "name"), verdict), also), ONE_TRAINING]
    for grade, mark, words in OTHERS:
        rows = [row for row in graded if row.grade == grade]
        if rows:
            # `words` say what the reason begins with
            why = rows[0].reason.removeprefix("neither shown: ").removeprefix("inferior: ")
            reason = f": {why}" if len(rows) == 1 else ""
            names = Span(listed([row.name for row in rows], NAMED), "name")
            notes.append(Note(mark, (names, f" {noun(len(rows), 'is', 'are')} {words}{reason}")))
    # what is known against the reference itself: to be as good as one that does nothing is worth nothing
    reference = (Span(report.adapters[0].name, "name"), ": ")
    for block in base_blocks(report):
        if isinstance(block, Notes):
            doubts = [note for note in block.notes if note.mark != "good"]
            notes += [replace(note, text=(*reference, *spans(note.text))) for note in doubts]
    return notes
