"""`bench_aggregate.json`: the seeds of one protocol together, and the verdict of the safety policy on each variant."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Float12, Part
from gradience.reports.base.blocks import Document, Note
from gradience.reports.base.graded import AnswerCounts, Ladder, Noise, VariantEvidence
from gradience.reports.base.report import PlotOf, Plots, Report, compared_plots
from gradience.reports.base.run import RunInfo
from gradience.reports.bench import OfAnArm, Status
from gradience.reports.bench_plan import DataSplit, Policy, Share


class SeedRow(Part):
    """One planned seed."""

    seed: int
    source: str | None
    """The bench.json it was read from; null where there is none: a failed seed."""
    status: Status
    unfinished: bool = False
    """Its run began and has left no result; false beside a null source: it was never run."""
    plan_digest: str | None = None
    """Of the plan that its run followed."""
    correct: int | None = None
    """Examples that the probe has correct."""
    n: int | None = None
    score: Float12 | None = None
    gate_passed: bool | None = None
    lora_params: int | None = None
    other_params: int | None = None


class Spread(Part):
    """A score over seeds."""

    seeds: int
    """How many have one."""
    mean: Float12
    sd: Float12 | None
    """Sample standard deviation (n − 1); null for one seed."""
    low: Float12
    high: Float12


class VariantSeed(Part):
    """One variant on one planned seed."""

    seed: int
    status: Status
    n: int | None = None
    correct: int | None = None
    only_probe_correct: int | None = None
    """Examples, as in the `pairs` of bench.json."""
    only_variant_correct: int | None = None
    delta: Float12 | None = None
    delta_exact: str | None = None
    """The same as counted: `-5/200`."""
    reduction: Float12 | None = None
    largest_rank: int | None = None
    same_as: str | None = None
    stopped_early: bool = False
    """Not trained: it could not pass any more."""
    kl_mean: Float12 | None = None
    """KL(probe ‖ variant), in nats: the `divergence.kl_mean` of bench.json."""
    predicted_kl_mean: Float12 | None = None
    """The `predicted.kl_mean` of bench.json; null but for a truncation that a calibration has chosen."""


class VariantSummary(OfAnArm):
    """One variant over the planned seeds."""

    made_by: str
    """How it comes to be, as in bench.json."""
    status: Status
    reasons: tuple[str, ...]
    """In words."""
    passing: int
    """Planned seeds that pass; a seed without a result is not one of them."""
    planned: int
    pass_rate: Share
    """passing / planned, exactly: `2/3`. The policy's `pass_rate` is what it is held against."""
    worst_delta: Float12 | None
    """The smallest difference, over the seeds that have a result."""
    worst_delta_exact: str | None
    mean_delta: Float12 | None
    accuracy: Spread | None
    """Over the seeds that have a result; `accuracy.seeds` says how many."""
    mean_reduction: Float12 | None
    """LoRA parameters saved, over the seeds in which its ranks are known."""
    seeds: tuple[VariantSeed, ...]
    evidence: VariantEvidence | None = None
    """How sure the verdict is. Null in files of earlier versions."""
    answers: AnswerCounts | None = None
    """What happened to its answers; null without any, and in files of earlier versions."""

    @property
    def complete(self) -> bool:
        """Whether every planned seed has counts."""
        return all(row.n for row in self.seeds)


class BestVariant(Part):
    """The variant that passes and saves most."""

    name: str
    mean_reduction: Float12


class Condition(Part):
    """Something without which a run can carry no claim, whatever its verdict."""

    name: Literal["protocol", "seeds", "confirm", "controls"]
    met: bool
    why: str
    """What was looked at, in words."""


class BenchAggregate(Report):
    """`bench_aggregate.json`: the seeds of one protocol together.

    >>> together = BenchAggregate.read("bench_aggregate.json")
    >>> together.status, together.planned_seeds
    ('PASS', (42, 123, 456, 789, 1011))
    """

    row_field: ClassVar[str] = "variants"
    plots: ClassVar[Plots] = {
        **compared_plots("Δ and how sure", "Variants"),
        "ladder": PlotOf("compared:ladder_plot", ("Which is the smallest", "Ladder", "Grades")),
        "operating": PlotOf("compared:operating_plot", ("Grades",)),
    }
    repair: ClassVar[str] = "aggregate the runs again: gradience bench aggregate DIR… --output DIR"

    schema_: Literal["gradience.bench_aggregate/3"] = Field(
        default="gradience.bench_aggregate/3", alias="schema"
    )
    status: Status
    """ERROR if a planned seed has an error or no result; else PASS if a variant passes."""
    reasons: tuple[str, ...]
    model: str
    model_type: Literal["seqcls", "causal_lm"]
    base_params: int | None
    base_fingerprint: str
    task: str
    eval_role: Literal["dev", "confirm"]
    splits: tuple[DataSplit, ...]
    protocol_digest: str
    policy: Policy
    planned_seeds: tuple[int, ...]
    seeds: tuple[SeedRow, ...]
    probe_rank: int | None
    probe: Spread | None
    """Null where no seed has a probe."""
    probe_answers: AnswerCounts | None = None
    """What happened to the probes' answers; null without any, and in files of earlier versions."""
    variants: tuple[VariantSummary, ...]
    """Controls last."""
    best: BestVariant | None
    ladder: Ladder | None = None
    """The smallest rank that holds; null where none was planned."""
    noise: Noise | None = None
    """How much differs although nothing was made smaller. Null in files of earlier versions."""
    records_verified: bool | None = None
    """Whether the counts were known to be those of the records: counted from them by the same process, or verified.
    Null in files of earlier versions."""
    conditions: tuple[Condition, ...]
    """Of a claim. Whether they are met says nothing about the verdict."""
    notes: tuple[str, ...]
    """What the thresholds mean in examples, and what limits the verdicts."""
    run: RunInfo

    def blocks(self) -> Document:
        """Return the sections, with what the numbers rest on."""
        blocks: Document = resolve_name("gradience.report.bench:aggregate_blocks")(self)
        return blocks

    def screen(self) -> Document:
        """Return the sections."""
        blocks: Document = resolve_name("gradience.report.bench:aggregate_blocks")(self, sources=False)
        return blocks

    def summary(self) -> list[Note] | None:
        """Return what controls and grade say, and the smallest rank of the ladder."""
        notes: list[Note] | None = resolve_name("gradience.report.bench.in_short:in_short")(self)
        return notes

    @property
    def conditions_met(self) -> bool:
        """Whether the run can carry a claim at all."""
        return all(condition.met for condition in self.conditions)

    @property
    def candidates(self) -> tuple[VariantSummary, ...]:
        """The variants without the controls and the ladder."""
        return tuple(variant for variant in self.variants if variant.is_candidate)

    @property
    def steps(self) -> tuple[VariantSummary, ...]:
        """The steps of the ladder among the variants."""
        return tuple(variant for variant in self.variants if variant.is_step)

    @property
    def controls(self) -> tuple[VariantSummary, ...]:
        """The controls among the variants."""
        return tuple(variant for variant in self.variants if variant.is_control)
