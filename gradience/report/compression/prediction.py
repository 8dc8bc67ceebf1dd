"""Predicted KL of a smaller adapter and of other sizes, from a calibration, before anything is evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gradience.reports.base.blocks import (
    Block,
    Column,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    figures,
)
from gradience.reports.base.numbers import count, percent, plural, sig
from gradience.reports.base.prediction import ROUTED, CurvePoint, Prediction
from gradience.reports.base.view import View
from gradience.reports.compression import CompressionPlan, CompressionReport

WIDE = 0.5
"""Half the interval as a share of the prediction, beyond which more prompts are advised."""


def prediction_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return the predicted divergence, how far predictions were off so far, and those of other sizes."""
    prediction = compression.prediction
    heading = Heading("Predicted change of the output")
    if prediction is None:
        reason = compression.prediction_withheld
        text = f"no prediction: {reason}. --allow-routed predicts it all the same"
        return [heading, Notes([Note("warning", text)])] if reason else []
    rows = [("predicted KL", _shown(prediction), "nats per scored token")]
    tokens = prediction.scored_tokens / prediction.rows
    if tokens != 1:
        rows.append(
            ("per example", sig(prediction.kl * tokens), f"nats, {tokens:.1f} scored tokens on average")
        )
    return [
        heading,
        figures(rows),
        *_warnings(prediction),
        Paragraph(_basis(prediction)),
        *(curve_blocks(compression.curve) if compression.curve else []),
    ]


def _shown(prediction: Prediction) -> str:
    if prediction.low is None or prediction.high is None:  # a file from before intervals
        return sig(prediction.kl)
    return f"{sig(prediction.kl)}, 95 % interval {sig(prediction.low, 2)} … {sig(prediction.high, 2)}"


def _warnings(prediction: Prediction) -> list[Block]:
    notes = []
    if prediction.routing:
        notes.append(
            f"{ROUTED.format(prediction.routing)}: measured KL can be many times the prediction. Evaluate"
        )
    uncertainty = prediction.uncertainty
    if uncertainty is not None and uncertainty > WIDE:
        # Half of the prompts predict, and an interval falls with the root of their number.
        needed = math.ceil(2 * prediction.rows * min(4, uncertainty / WIDE) ** 2 / 10) * 10
        tokens = plural(prediction.scored_tokens, "scored token")
        notes.append(
            f"the interval is ± {percent(uncertainty)} of the prediction: {tokens} are few. Calibrate on about"
            f" {count(needed)} prompts for ± 50 %"
        )
    return [Notes([Note("warning", note) for note in notes])] if notes else []


def ratios_text(ratios: Mapping[str, tuple[float, float]]) -> str:
    """Return how far measured values were from predicted ones, by model and task."""
    return "; ".join(f"{low:g} to {high:g} on {where}" for where, (low, high) in ratios.items())


def _basis(prediction: Prediction) -> str:
    left_out = (
        f" It excludes {plural(prediction.excluded_modules, 'module')}, whose rank stays."
        if prediction.excluded_modules
        else ""
    )
    rows, tokens = plural(prediction.rows, "row"), plural(prediction.scored_tokens, "scored token")
    return (
        f"Second order, from {rows} ({tokens}) that did not choose the components. The interval is over rows and random"
        f" directions. Measured / predicted so far: {ratios_text(prediction.ratios)}.{left_out} It is no accuracy:"
        " evaluate the result."
    )


def curve_blocks(points: tuple[CurvePoint, ...]) -> list[Block]:
    """Return the predicted KL of each size, for both ways to spend its parameters."""
    rows: list[list[Inline]] = [
        [str(point.rank), count(point.params), Span(sig(point.calibrated_kl), "strong"), sig(point.svd_kl)]
        for point in points
    ]
    columns = [
        Column("size of rank", ">"),
        Column("parameters", ">"),
        Column("KL, by effect", ">"),
        Column("KL, SVD", ">"),
    ]
    text = (
        "Predicted KL per scored token at the parameters of each rank. By effect: --max-params N with the calibration"
        " gives modules different ranks. SVD: --rank K without the calibration. --rank K with the calibration is"
        " neither: --dry-run predicts it."
    )
    return [Table(columns, rows), Paragraph(text)]
