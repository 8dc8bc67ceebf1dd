"""What a page says first, for who reads no further: the verdict, its grade with the reason, the smallest rank."""

from __future__ import annotations

from gradience.artifacts.bench import Bench
from gradience.artifacts.bench_aggregate import BenchAggregate
from gradience.artifacts.evaluation import EvaluationReport
from gradience.artifacts.evidence import EvidenceReport
from gradience.artifacts.report import Report
from gradience.artifacts.shrink import ShrinkReport
from gradience.report.blocks import Note
from gradience.report.evaluation import grades
from gradience.report.evidence import GRADES
from gradience.report.shrink import answer

MOST = 6
"""Notes that are short enough to stand first."""
ONE_TRAINING = (
    "This is about these adapters. Whether another training run would come out the same is not shown."
)


def in_short(report: Report) -> list[Note] | None:
    """Return what stands first, beside the opening of the report; None for one that has no verdict, or too many."""
    match report:
        case Bench() if report.smoke:
            return None
        case Bench() | BenchAggregate():
            return [*_grade(report), *_ladder(report)]
        case ShrinkReport():
            return [answer(report), *([Note("info", ONE_TRAINING)] if report.smallest is not None else [])]
        case EvaluationReport():
            notes = grades(report)
            supported = any(row.grade == "B" for row in report.candidates)
            short = 0 < len(notes) <= MOST
            return [*notes, *([Note("info", ONE_TRAINING)] if supported else [])] if short else None
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


def _ladder(run: Bench | BenchAggregate) -> list[Note]:
    """The smallest rank that holds, which need not be a variant."""
    if run.ladder is None:
        return []
    sentence = run.ladder.sentence
    return [
        Note(
            "good" if run.ladder.smallest_safe else "unknown",
            f"Ladder of truncations: {sentence}{'' if sentence.endswith('.') else '.'}",
        )
    ]
