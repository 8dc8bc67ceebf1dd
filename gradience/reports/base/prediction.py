"""What a smaller adapter is predicted to cost, from a calibration: a part of a compression's plan and report."""

from __future__ import annotations

from gradience.files.artifact import Float12, Part

RATIOS = {
    "MiniLM-L6, reviews": (0.75, 2.76),
    "SmolLM2-135M, arithmetic": (1.08, 2.12),
    "SmolLM2-135M, sorting numbers": (1.02, 3.81),
}
"""Measured KL / predicted KL in the experiments so far (three seeds each, random directions left out)."""
ROUTED = "the base routes each token to {}, and a prediction assumes that no token changes its experts"


class Prediction(Part):
    """What a smaller adapter is predicted to cost: KL(original ‖ smaller) per scored token, in nats."""

    kl: Float12
    standard_error: Float12
    """Over rows. `low` and `high` are the interval to use: few rows with a large effect decide the mean."""
    low: Float12 | None = None
    high: Float12 | None = None
    """95 % interval over rows and random directions; it leaves out what a second-order prediction misses. Null in files
    from before it was computed."""
    rows: int
    scored_tokens: int
    excluded_modules: int
    """Modules that keep their rank because the calibration does not include them."""
    ratios: dict[str, tuple[float, float]]
    """Measured / predicted in the experiments so far, by model and task."""
    routing: str = ""
    """Of the calibration: how the base routes tokens. Then measured KL can be many times the prediction."""

    @property
    def uncertainty(self) -> float | None:
        """Half the width of the interval as a share of the prediction; None if it is not known, or the KL is 0."""
        if self.low is None or self.high is None or not self.kl:
            return None
        return (self.high - self.low) / 2 / self.kl


class PredictedDivergence(Part):
    """What a calibrated truncation was predicted to cost, from training prompts, before anything was evaluated."""

    kl_mean: Float12
    """KL(probe ‖ variant) in nats, to second order, summed over the scored tokens of a row, mean over rows: as the
    `kl_mean` of `divergence`, on other examples and, in free text, on what the probe writes."""
    kl_standard_error: Float12
    """Over rows; it leaves out what a second-order prediction misses."""
    kl_per_token: Float12
    """The same for each scored token. `calibration.max_kl` limits the upper end of its interval."""
    rows: int
    """That predict; others chose."""
    excluded_modules: int
    """Modules that keep their rank, because the calibration does not include them."""

    @classmethod
    def of(cls, prediction: Prediction) -> PredictedDivergence:
        """The same for a row, as what is measured of an example."""
        tokens = prediction.scored_tokens / prediction.rows
        return cls(
            kl_mean=prediction.kl * tokens,
            kl_standard_error=prediction.standard_error * tokens,
            kl_per_token=prediction.kl,
            rows=prediction.rows,
            excluded_modules=prediction.excluded_modules,
        )


class ModuleEffect(Part):
    """What one module does to the model's output."""

    name: str
    importance: Float12
    """Predicted KL per scored token of leaving out its whole update, in nats."""
    weighted_energy_rank_90: int
    """Fewest directions that hold 90 % of the gradient-weighted energy: no suggestion of a rank."""


class LayerEffect(Part):
    """What the modules of one transformer layer do together."""

    layer: str
    """Path of the layer; `(outside the layers)` for the rest."""
    importance: Float12
    """Predicted KL per scored token of leaving out all of their updates, in nats."""


class CurvePoint(Part):
    """Predictions at the parameters of one uniform rank."""

    rank: int
    params: int
    """Of uniform SVD at this rank: the limit of the calibrated adapter beside it."""
    calibrated_kl: Float12
    svd_kl: Float12


class MeasuredEffects(Part):
    """An audit's part from a calibration: what matters to the output, and what each size is predicted to cost."""

    calibration_sha256: str
    rows: int
    """That predict."""
    scored_tokens: int
    excluded_modules: int
    """Modules that the calibration does not include; their rank stays in every prediction."""
    weighted_energy_rank_90_p50: Float12
    """Median over the calibrated modules."""
    weighted_energy_rank_90_p90: Float12
    curve: tuple[CurvePoint, ...]
    modules: tuple[ModuleEffect, ...]
    by_layer: tuple[LayerEffect, ...]
    ratios: dict[str, tuple[float, float]]
    """Measured / predicted in the experiments so far, by model and task."""
    routing: str = ""
    """How the base routes tokens; then there is no curve."""
