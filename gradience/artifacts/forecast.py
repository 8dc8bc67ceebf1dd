"""`gradience bench run --dry-run --json`: what a run would do, and an estimate of what it would cost."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.artifacts.base import Artifact, Float12, Part
from gradience.artifacts.bench_plan import Policy


class CostEstimate(Part):
    """For one seed on one GPU; an estimate from the shape of the model, not a measurement."""

    base_params: int
    """Weights of the base, norms and biases left out."""
    probe_params: int
    """LoRA parameters of the probe; the head apart."""
    weights_bytes: int
    """The frozen base in its precision."""
    trained_bytes: int
    """The probe's factors with gradients and Adam's moments. Activations are not estimated."""
    tokens_per_training: int
    """At most: as if every example were `max_length` tokens long."""
    hours_per_training: Float12
    hours_per_evaluation: Float12
    hours: Float12
    """All trainings and evaluations of a seed, if no two variants come to the same."""


class BenchForecast(Artifact):
    """A plan before anything is loaded."""

    schema_id: ClassVar[str] = "gradience.bench_forecast/1"

    schema_: Literal["gradience.bench_forecast/1"] = Field(
        default="gradience.bench_forecast/1", alias="schema"
    )
    config_digest: str
    protocol_digest: str
    smoke: bool
    model: str
    task: str
    seeds: tuple[int, ...]
    stages: tuple[str, ...]
    """Of each seed, in order."""
    trainings: int
    """For a seed, the probe's among them, if no two variants come to the same."""
    evaluations: int
    examples: int | None
    """Questions that decide; null where only the data can tell."""
    gate: str
    """Share of right answers that the probe must reach."""
    policy: Policy
    cost: CostEstimate | None
    """Null for a model whose shape is not known offline."""
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
    """Keys of the config that were read under another name or have no effect."""
