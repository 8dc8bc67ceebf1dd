"""How large an update is beside the weight that it is added to: a part of an audit, where the base model was given."""

from __future__ import annotations

from gradience.artifacts.base import Float12, Part


class DoraChange(Part):
    """What a DoRA module does to its weight: ΔW = m·(W + s·B·A)/‖W + s·B·A‖ − W."""

    magnitude: Float12
    """‖m − m₀‖₂/‖m₀‖₂, where m₀ are the norms of W's rows."""
    fro_norm: Float12
    """‖ΔW‖_F."""
    sigma_max: Float12
    """‖ΔW‖₂, as exact as ‖W‖₂."""


class Dominance(Part):
    """One module, or one expert of it."""

    name: str
    weight_norm: Float12
    """‖W‖_F."""
    weight_sigma_max: Float12
    """‖W‖₂: at most `tolerance` of the block below the truth."""
    spectral: Float12
    """‖ΔW‖₂/‖W‖₂."""
    frobenius: Float12
    """‖ΔW‖_F/‖W‖_F."""
    dora: DoraChange | None = None
    """Null where the update is s·B·A; else both ratios are those of this update."""


class NotCompared(Part):
    """A module whose weight was not read, and why."""

    name: str
    reason: str


class BaseComparison(Part):
    """The update beside the weights of the base model."""

    base: str
    """What was given."""
    quantization: str | None = None
    """How its weights are packed, as its config.json or the names of its tensors tell; null where they are not."""
    tolerance: Float12
    """Relative, of every ‖W‖₂."""
    spectral_median: Float12 | None
    spectral_p90: Float12 | None
    frobenius_median: Float12 | None
    frobenius_p90: Float12 | None
    above_10_percent: Float12 | None
    """Share of the modules with ‖ΔW‖₂ > 0.1·‖W‖₂."""
    above_30_percent: Float12 | None
    frobenius_above_10_percent: Float12 | None = None
    """Share of the modules with ‖ΔW‖_F > 0.1·‖W‖_F."""
    frobenius_above_30_percent: Float12 | None = None
    modules: tuple[Dominance, ...]
    not_compared: tuple[NotCompared, ...]
