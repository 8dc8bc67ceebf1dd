"""Predicted cost of a smaller adapter, from a calibration: a part of a compression's plan and report."""

import math
from collections.abc import Mapping

from gradience.files.artifact import Float12, Part
from gradience.reports.base.blocks import Block, Fact, Facts, Heading, Paragraph, Span, warned
from gradience.reports.base.numbers import count, plural, sig

RATIOS = {
    "MiniLM-L6, reviews": (0.75, 2.76),
    "SmolLM2-135M, arithmetic": (1.08, 2.12),
    "SmolLM2-135M, sorting numbers": (1.02, 3.81),
    "MiniLM-L6, product reviews": (0.78, 12.1),
    "MiniLM-L6, sources of texts": (0.89, 2.35),
    "SmolLM2-135M, comparing sums": (2.66, 4.04),
}
"""Range of measured KL / predicted KL over three seeds (one for sums), excluding random directions and KL below three
times the bfloat16 noise. Sources: docs/results/calibration.md and docs/results/predicted_drop.md."""


def in_earlier_runs(ratios: Mapping[str, tuple[float, float]]) -> str:
    """Return the range of measured / predicted KL in a sentence; empty without any."""
    if not ratios:
        return ""
    ends = [end for ratio in ratios.values() for end in ratio]
    return f"In earlier runs, the measured KL was {min(ends):g} to {max(ends):g} times the prediction."


EARLIER = in_earlier_runs(RATIOS)
ROUTED = "the base routes each token to {}, and a prediction assumes that no token changes its experts"


class Prediction(Part):
    """Predicted cost of a smaller adapter: KL(original ‖ smaller) per scored token, in nats."""

    kl_per_token: Float12
    standard_error: Float12
    """Standard error over rows. Use the interval from `low` to `high`: few rows with a large effect decide the mean."""
    low: Float12 | None = None
    high: Float12 | None = None
    """95 % interval over rows and random directions; it excludes errors of the second-order approximation.
    Null in files from before it was computed."""
    rows: int
    scored_tokens: int
    excluded_modules: int
    """Modules that keep their rank because the calibration does not include them."""
    ratios: dict[str, tuple[float, float]]
    """Measured / predicted in the experiments so far, by model and task."""
    routing: str = ""
    """Token routing of the base, from the calibration. If tokens are routed, measured KL can be many times
    the prediction."""

    @property
    def uncertainty(self) -> float | None:
        """Return half the width of the interval as a share of the prediction; None if it is unknown, or the KL is 0."""
        if self.low is None or self.high is None or not self.kl_per_token:
            return None
        return (self.high - self.low) / 2 / self.kl_per_token


WIDE = 0.5
"""Half the interval as a share of the prediction, above which more prompts are advised."""


def prediction_blocks(prediction: Prediction | None, withheld: str) -> list[Block]:
    """Return the predicted divergence, and the accuracy of earlier predictions.

    withheld: reason why a calibration gives no prediction.
    """
    heading = Heading("Predicted change of the output")
    if prediction is None:
        text = f"no prediction: {withheld}. Add --allow-routed to predict it anyway"
        return [heading, warned([text])] if withheld else []
    kl = sig(prediction.kl_per_token)
    if prediction.low is not None and prediction.high is not None:
        kl += f", 95 % interval {sig(prediction.low, 2)} … {sig(prediction.high, 2)}"
    tokens = prediction.scored_tokens / prediction.rows
    unit, words = ("example", "nats") if tokens == 1 else ("token", "nats per scored token")
    facts: list[Fact] = [(f"predicted KL/{unit}", (Span(kl, "strong"), f" ({words})"))]
    if tokens != 1:
        whole = Span(sig(prediction.kl_per_token * tokens), "strong")
        facts.append(("predicted KL/example", (whole, f" (nats, {tokens:.1f} scored tokens on average)")))
    notes = []
    if prediction.routing:
        many_times = "measured KL can be many times the prediction. Evaluate"
        notes.append(f"{ROUTED.format(prediction.routing)}: {many_times}")
    uncertainty = prediction.uncertainty
    scored = plural(prediction.scored_tokens, "scored token")
    if uncertainty is not None and uncertainty > WIDE:
        times = sig((prediction.high or 0.0) / prediction.kl_per_token, 2)
        # Half of the prompts predict, and the interval shrinks with the square root of their number.
        needed = math.ceil(2 * prediction.rows * min(4, uncertainty / WIDE) ** 2 / 10) * 10
        notes.append(
            f"{scored} are too few: the upper bound is {times} times the prediction. Calibrate on about"
            f" {count(needed)} prompts for ± 50 %"
        )
    left_out = ""
    if prediction.excluded_modules:
        left_out = f" It excludes {plural(prediction.excluded_modules, 'module')}, which keep their rank."
    earlier = f" {in_earlier_runs(prediction.ratios)}".rstrip()
    basis = (
        f"Second-order estimate from {plural(prediction.rows, 'example')} ({scored}) that were not used to choose the"
        f" components.{earlier}{left_out} Evaluate the result."
    )
    return [heading, Facts(facts), warned(notes), Paragraph(basis)]
