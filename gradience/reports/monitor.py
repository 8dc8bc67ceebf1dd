"""`gradience monitor --json`: what happened in one or several training runs, and what to do about it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Float12, Part
from gradience.reports.base.finding import Severity
from gradience.reports.base.report import Report

Confidence = Literal["low", "medium", "high"]
Outcome = Literal["ok", "stopped-early", "interrupted", "error", "unfinished"]


class Evidence(Part):
    """A value that a statement rests on."""

    what: str
    value: Float12 | str
    step: int | None = None


class Alert(Part):
    """Something that needs a look."""

    code: str
    severity: Severity
    message: str
    evidence: tuple[Evidence, ...] = ()
    confidence: Confidence
    """How sure the rule is that the statement is true of this run."""
    source: str
    """Where the rule comes from; `recorded` for an alert that was already in the file."""


class Recommendation(Part):
    """Something to do."""

    action: str
    reason: str
    because: str
    """Code of the alert it answers."""
    evidence: tuple[Evidence, ...] = ()
    confidence: Confidence


class CurvePoint(Part):
    """A few neighbouring points of a series (one in a short run)."""

    step: int
    """The last step of the group."""
    mean: Float12
    low: Float12
    high: Float12


class Curve(Part):
    """A series over steps."""

    count: int
    """Finite points."""
    nonfinite: int
    """Points that were NaN or infinite."""
    first_nonfinite_step: int | None = None
    first: Float12 | None = None
    last: Float12 | None = None
    """The last value; null where it is NaN or infinite."""
    low: Float12 | None = None
    low_step: int | None = None
    high: Float12 | None = None
    high_step: int | None = None
    points: tuple[CurvePoint, ...] = ()
    """At most 512."""


class EvaluationPoint(Part):
    """One evaluation."""

    step: int
    loss: Float12 | None = None
    perplexity: Float12 | None = None
    train_loss: Float12 | None = None
    """Mean training loss since the evaluation before (the last one where the file does not say)."""
    gap: Float12 | None = None
    """Evaluation loss minus training loss, in nats."""
    metrics: dict[str, Float12] = Field(default_factory=dict)
    """Everything else that was evaluated."""


class SplitReport(Part):
    """All evaluations on one split."""

    count: int
    best: EvaluationPoint | None
    """Smallest loss; in reinforcement learning the highest reward."""
    last: EvaluationPoint | None
    loss: Curve


class Rewards(Part):
    """What reinforcement learning logged."""

    reward: Curve
    """Mean reward of completions."""
    reward_std: Curve
    """Standard deviation of rewards, as the trainer counts it."""
    zero_std: Curve
    """Share of groups whose completions all got the same reward."""
    kl: Curve
    """Distance from the reference model, nats per token."""
    sequence_kl: Curve
    """Distance from the reference model, nats per completion (`objective/kl`)."""
    entropy: Curve
    """Of the policy, as the trainer counts it (GRPO: nats per token)."""
    length: Curve
    """Mean length of completions, tokens."""
    clipped: Curve
    """Share of completions that were cut off at the limit."""


class RankUsePoint(Part):
    """Use of rank at one step, over modules."""

    step: int
    energy_rank_90_p50: Float12 | None = None
    energy_rank_90_p90: Float12 | None = None
    stable_rank_median: Float12 | None = None
    utilization_median: Float12 | None = None
    fro_norm: Float12 | None = None
    """√Σ‖ΔW‖_F² over modules."""


class FamilyUse(Part):
    """Use of rank in one family of modules, at the last measurement."""

    modules: int
    energy_rank_90_p50: Float12 | None = None
    energy_rank_90_p90: Float12 | None = None
    stable_rank_median: Float12 | None = None
    utilization_median: Float12 | None = None
    fro_norm: Float12 | None = None


class LayerUse(Part):
    """Use of rank in one transformer layer, over the measurements."""

    layer: str
    """Its path, such as `model.layers.11`."""
    stable_rank_median: tuple[Float12 | None, ...]
    """Of its modules at each of the points; null where none was measured."""


class RankUse(Part):
    """Live spectra of the run."""

    modules: int
    unmeasured: int
    max_rank: int | None
    untrained: int
    nonfinite: int
    settled_since: int | None
    """The step since which k@90 stands still; null while it moves, and where too little was measured."""
    points: tuple[RankUsePoint, ...]
    families: dict[str, FamilyUse]
    layers: tuple[LayerUse, ...] = ()
    """At most 128, in the order of the model."""


class Setup(Part):
    """How the run was configured, as far as the file says."""

    model: str | None = None
    task: str | None = None
    trainer: str | None = None
    """Class of the trainer."""
    method: Literal["supervised", "preference", "reinforcement"] = "supervised"
    """From the trainer's class, or from what it logged where the class says nothing."""
    evaluated_by: str | None = None
    """Who evaluates where the trainer does not."""
    r: int | None = None
    alpha: Float12 | None = None
    scale: Float12 | None = None
    learning_rate: Float12 | None = None
    optimizer: str | None = None
    schedule: str | None = None
    effective_batch_size: int | None = None
    max_steps: int | None = None
    precision: str | None = None
    quantization: str | None = None
    trainable_params: int | None = None
    hidden_size: int | None = None
    notes: str | None = None


class ReadNote(Part):
    """Lines of the file that could not be read, or not as they should be."""

    code: str
    count: int
    first_line: int
    message: str


class RunReport(Part):
    """One run."""

    file: str
    run_id: str
    runs_in_file: int
    """How many runs the file holds; the last one is reported."""
    records: int
    read_notes: tuple[ReadNote, ...]
    outcome: Outcome
    outcome_reason: str | None = None
    last_step: int | None
    resumed_from: tuple[int, ...]
    """Steps at which the run was taken up again."""
    started: Float12 | None
    """Wall clock, seconds since 1970."""
    seconds: Float12 | None
    """Duration from a monotonic clock."""
    samples_per_second: Float12 | None
    setup: Setup
    loss: Curve
    grad_norm: Curve
    learning_rate: Curve
    rewards: Rewards | None = None
    """Reinforcement learning only."""
    evaluations: dict[str, SplitReport]
    rank_use: RankUse | None
    audits: tuple[dict[str, int | Float12 | str | None], ...]
    """Summaries of `lora_audit` records: what `gradience audit --append` added."""
    alerts: tuple[Alert, ...]
    recommendations: tuple[Recommendation, ...]
    notes: tuple[str, ...]
    """What to keep in mind when reading the numbers."""


class MonitorReport(Report):
    """One or several runs.

    >>> from gradience import monitor_runs
    >>> report = monitor_runs(["run.jsonl"])
    >>> report.runs[0].outcome
    'ok'
    """

    row_field: ClassVar[str] = "runs"

    schema_: Literal["gradience.monitor/1"] = Field(default="gradience.monitor/1", alias="schema")
    gradience_version: str
    gap_threshold: Float12
    runs: tuple[RunReport, ...]
