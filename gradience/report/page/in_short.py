"""What a page says first, for who reads no further: the verdict, its grade with the reason, the smallest rank."""

from __future__ import annotations

from dataclasses import replace

from gradience.bench.verdict.conditions import as_expected
from gradience.report.evaluation import base_blocks
from gradience.report.evidence import GRADES
from gradience.report.shrink import answer
from gradience.reports.base.blocks import Mark, Note, Notes, Span, spans
from gradience.reports.base.graded import Grade
from gradience.reports.base.numbers import percent
from gradience.reports.base.report import Report
from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_aggregate import BenchAggregate, VariantSummary
from gradience.reports.evaluation import EvaluationReport
from gradience.reports.evidence import EvidenceReport
from gradience.reports.shrink import ShrinkReport
from gradience.words import listed, noun

NAMED = 3
"""Candidates that are named of those without a verdict."""
OTHERS: tuple[tuple[Grade, Mark, str], ...] = (
    ("C", "unknown", "neither shown to be as good nor to be worse"),
    ("D", "warning", "shown to be worse than the margin allows"),
    ("X", "warning", "not to be compared"),
)
ONE_TRAINING = (
    "This is about these adapters. Whether another training run would come out the same is not shown."
)


def in_short(report: Report) -> list[Note] | None:
    """Return what stands first, beside the opening of the report; None for one that has no verdict, or too many."""
    match report:
        case Bench() if report.smoke:
            return None
        case Bench() | BenchAggregate():
            return [*_controls(report), *_grade(report), *_ladder(report)]
        case ShrinkReport():
            return [answer(report), *([Note("info", ONE_TRAINING)] if report.smallest is not None else [])]
        case EvaluationReport():
            return _evaluated(report)
        case EvidenceReport():
            mark, words = GRADES[report.grade]
            return [Note(mark, report.verdict, [f"grade {report.grade}: {words}"])]
    return None


def _grade(run: Bench | BenchAggregate) -> list[Note]:
    best = next((one for one in run.variants if run.best is not None and one.name == run.best.name), None)
    if best is None or best.evidence is None or best.evidence.grade is None:
        return []
    mark, _ = GRADES[best.evidence.grade]
    return [Note(mark, f"Grade {best.evidence.grade}: {best.evidence.reason}.")]


def _controls(run: Bench | BenchAggregate) -> list[Note]:
    """Controls that came out otherwise than they must: then the others' verdicts mean little."""
    wrong = [one.name for one in run.controls if as_expected(one.name, one.status) is False]
    return [Note("warning", f"{name}: not as a control must be. See Controls.") for name in wrong]


def _ladder(run: Bench | BenchAggregate) -> list[Note]:
    """The smallest rank that holds, which is no variant of the policy."""
    if run.ladder is None:
        return []
    safe = run.ladder.smallest_safe
    saved = next((_saved(rung) for rung in run.rungs if rung.name == safe), None)
    keeps = "" if saved is None else f" It has {percent(saved)} fewer LoRA parameters."
    sentence = f"Ladder of truncations: {run.ladder.sentence.removesuffix('.')}.{keeps}"
    return [Note("good" if safe else "unknown", sentence)]


def _saved(result: VariantResult | VariantSummary) -> float | None:
    return result.reduction if isinstance(result, VariantResult) else result.mean_reduction


def _evaluated(report: EvaluationReport) -> list[Note] | None:
    """The smallest that is as good, and how many of the others are what; whether the reference does anything."""
    graded = [row for row in report.candidates if row.grade is not None]
    if not graded:
        return None
    notes: list[Note] = []
    good = [row for row in graded if row.grade in ("A", "B")]
    best = max(good, key=lambda row: row.params_saved or 0.0, default=None)
    if best is not None:
        which = " is the smallest that is as good" if len(graded) > 1 else " is as good"
        others = [row.name for row in good if row is not best]
        saved = (
            "" if best.params_saved is None else f", with {percent(best.params_saved)} fewer LoRA parameters"
        )
        text = (Span(best.name, "name"), f"{which}{saved}: {best.grade}, {best.reason}")
        also = [("As good: ", Span(listed(others, NAMED), "name"))] if others else []
        notes += [Note("good", text, also), Note("info", ONE_TRAINING)]
    for grade, mark, words in OTHERS:
        rows = [row for row in graded if row.grade == grade]
        if rows:
            why = (
                rows[0].reason.removeprefix("neither shown: ").removeprefix("inferior: ")
            )  # `words` say that
            reason = f": {why}" if len(rows) == 1 else ""
            names = Span(listed([row.name for row in rows], NAMED), "name")
            notes.append(Note(mark, (names, f" {noun(len(rows), 'is', 'are')} {words}{reason}")))
    return [*notes, *_inert(report)]


def _inert(report: EvaluationReport) -> list[Note]:
    """What is known against the reference itself: to be as good as one that does nothing is worth nothing."""
    about = [block for block in base_blocks(report) if isinstance(block, Notes)]
    whose = (Span(report.adapters[0].name, "name"), ": ")
    doubts = [note for block in about for note in block.notes if note.mark != "good"]
    return [replace(note, text=(*whose, *spans(note.text))) for note in doubts]
