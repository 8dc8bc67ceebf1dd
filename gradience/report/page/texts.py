"""A page of private data: what was asked and answered is left out."""

from __future__ import annotations

from dataclasses import replace

from gradience.report.inputs import Source
from gradience.reports.evaluation import EvaluationPreview
from gradience.reports.evidence import EvidenceReport
from gradience.reports.forecast import BenchForecast
from gradience.reports.verification import DifferingAnswer, RegeneratedAnswers, Verification

LEFT_OUT = "(left out)"
RECORDS = "records.jsonl"
"""How the name of a file of records ends: what disagrees there may be an answer."""


def without_texts(source: Source) -> Source:
    """Return the source with a report in which no example or answer is quoted; identities and scores stay."""
    match source.report:
        case EvidenceReport() as report:
            flips = tuple(replace(flip, excerpt="", answer_a="", answer_b="") for flip in report.flips)
            return replace(source, report=report.model_copy(update={"flips": flips}))
        case BenchForecast() as forecast:
            return replace(source, report=forecast.model_copy(update={"example": None, "scored": ()}))
        case EvaluationPreview() as preview:
            return replace(source, report=preview.model_copy(update={"scored": ()}))
        case Verification() as verification:
            return replace(source, report=_unquoted(verification))
    return source


def _unquoted(report: Verification) -> Verification:
    """Without outputs that were recorded, and those that were made again."""
    mismatches = [
        one.model_copy(update={"what": LEFT_OUT}) if one.file.endswith(RECORDS) else one
        for one in report.mismatches
    ]
    again = [one.model_copy(update={"differing": _blank(one)}) for one in report.regenerated or ()]
    return report.model_copy(update={"mismatches": tuple(mismatches), "regenerated": tuple(again)})


def _blank(answers: RegeneratedAnswers) -> tuple[DifferingAnswer, ...]:
    left_out = {"recorded": LEFT_OUT, "again": LEFT_OUT}
    return tuple(one.model_copy(update=left_out) for one in answers.differing)
