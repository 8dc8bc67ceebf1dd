"""A page of private data: what was asked and answered is left out."""

from __future__ import annotations

from dataclasses import replace

from gradience.artifacts.evaluation import EvaluationPreview
from gradience.artifacts.evidence import EvidenceReport
from gradience.artifacts.forecast import BenchForecast
from gradience.report.inputs import Source


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
    return source
