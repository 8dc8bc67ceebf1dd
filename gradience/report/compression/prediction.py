"""What is the model's output predicted to lose? From a calibration, before anything is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

from gradience.artifacts.compression import CompressionPlan, CompressionReport
from gradience.artifacts.prediction import CurvePoint, Prediction
from gradience.report.blocks import Block, Column, Heading, Inline, Paragraph, Span, Table, figures
from gradience.report.numbers import count, plural, sig
from gradience.report.view import View


def prediction_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return the predicted divergence, how far predictions were off so far, and those of other sizes."""
    prediction = compression.prediction
    if prediction is None:
        return []
    asked = (
        "would the model's output" if isinstance(compression, CompressionPlan) else "is the model's output"
    )
    heading = f"What {asked} lose?" if "would" in asked else "What is the output predicted to lose?"
    blocks: list[Block] = [
        Heading(heading),
        figures([("predicted KL", _shown(prediction), "nats per scored token, original against smaller")]),
        Paragraph(_basis(prediction)),
    ]
    if compression.curve:
        blocks.append(curve_table(compression.curve))
    return blocks


def _shown(prediction: Prediction) -> str:
    return f"{sig(prediction.kl)} ± {sig(prediction.standard_error, 2)}"


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
        f"Second order, from {rows} ({tokens}) that did not choose the components; ± is the standard error over them."
        f" Measured / predicted so far: {ratios_text(prediction.ratios)}.{left_out} It is no accuracy: evaluate the"
        " result."
    )


def curve_table(points: tuple[CurvePoint, ...]) -> Table:
    """Return what each size is predicted to cost, uniform SVD's beside it."""
    rows: list[list[Inline]] = [
        [str(point.rank), count(point.params), Span(sig(point.calibrated_kl), "strong"), sig(point.svd_kl)]
        for point in points
    ]
    columns = [
        Column("uniform rank", ">"),
        Column("parameters", ">"),
        Column("predicted KL, calibrated", ">"),
        Column("uniform SVD", ">"),
    ]
    return Table(columns, rows)
