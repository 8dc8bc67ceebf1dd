"""What calibrated variants were predicted to cost, beside what they did."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from gradience.reports.base.blocks import Block, Column, Heading, Inline, Paragraph, Span, Table
from gradience.reports.base.numbers import MISSING, sig
from gradience.reports.bench import VariantResult
from gradience.reports.bench_aggregate import VariantSummary

Result = VariantResult | VariantSummary
Pair = tuple[float, float]
"""KL that was predicted, and that was measured."""
WHAT = (
    "KL: distance from the probe's outputs, in nats per example. Predicted to second order from training prompts "
    "without labels, before anything was evaluated."
)
OTHER_ANSWERS = " Predicted over the answers that the probe writes, measured over the gold ones."


def predictions(results: Sequence[Result], model_type: str) -> list[Block]:
    """Return the section of predicted and measured KL; nothing where no variant has both."""
    known = [(result.name, pairs) for result in results if (pairs := _pairs(result))]
    if not known:
        return []
    several = any(len(pairs) > 1 for _, pairs in known)
    aside = "calibrated variants; means over the seeds" if several else "calibrated variants"
    columns = [
        Column(),
        Column("predicted KL", ">"),
        Column("measured KL", ">"),
        Column("measured / predicted", ">"),
    ]
    rows = [_row(name, pairs) for name, pairs in known]
    text = WHAT if model_type == "seqcls" else WHAT + OTHER_ANSWERS
    return [
        Heading("Predicted and measured", aside=aside),
        Table(columns, rows),
        Paragraph(Span(text, "dim")),
    ]


def _pairs(result: Result) -> list[Pair]:
    """One for each seed."""
    if isinstance(result, VariantResult):
        both = [(result.predicted, result.divergence)]
        return [
            (was.kl_mean, is_now.kl_mean) for was, is_now in both if was is not None and is_now is not None
        ]
    seeds = [(row.predicted_kl_mean, row.kl_mean) for row in result.seeds]
    return [(was, is_now) for was, is_now in seeds if was is not None and is_now is not None]


def _row(name: str, pairs: Sequence[Pair]) -> list[Inline]:
    predicted, measured = zip(*pairs, strict=True)
    return [Span(name, "name"), sig(fmean(predicted)), sig(max(0.0, fmean(measured))), _ratios(pairs)]


def _ratios(pairs: Sequence[Pair]) -> str:
    """The smallest to the largest over the seeds; nothing where nothing was predicted to change."""
    ratios = sorted(max(0.0, measured) / predicted for predicted, measured in pairs if predicted > 0)
    if not ratios:
        return MISSING
    low, high = sig(ratios[0]), sig(ratios[-1])
    return low if low == high else f"{low} to {high}"
