"""`bench.json`, one seed of Bench, and `bench_aggregate.json`, the seeds of one protocol together.

Comparisons are paired, example by example. Every input of a verdict is an integer, and the records behind the counts
are named with their digests, so that anybody can repeat the counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field, model_validator

from gradience.files.artifact import Float12, Part, absent_at, round_significant
from gradience.files.records import unpack
from gradience.files.shared_names import PlainName
from gradience.reports.base import blocks as doc
from gradience.reports.base.exact import exact_percent, exact_text
from gradience.reports.base.graded import GRADE_TONES, Bounds, Grade, NextGrade, Probability, grade_note
from gradience.reports.base.numbers import MISSING, number_range, percent, plural, round_up, sig, trimmed
from gradience.reports.base.prediction import Prediction
from gradience.reports.base.report import COMPARED_PLOTS, Plots, Report, RunInfo
from gradience.reports.bench_plan import DataSplit, LadderBound, PlannedSet, Policy, Share, allowed_losses
from gradience.reports.evaluation import EvaluatedAdapter, delta_cell
from gradience.statistics.table import PairedTable
from gradience.words import counted, noun
from gradience.words import points as signed_points

if TYPE_CHECKING:  # scipy is loaded to compute evidence, not to read a file
    from fractions import Fraction

    import numpy as np
    from numpy.typing import NDArray

    from gradience.statistics.pooled import Claim, Pooled
    from gradience.statistics.sequential import Look

MIN_SEEDS = 3
"""Smallest number of training runs for which a bound on other training runs is given: two show too little of
their spread."""

Status = Literal["PASS", "FAIL", "INCONCLUSIVE", "UNDERTRAINED", "SKIPPED", "ERROR"]
"""FAIL: worse than the policy allows, or not shown on every planned seed. INCONCLUSIVE: some seeds have no
result. UNDERTRAINED: the probe did not reach its gate. SKIPPED: not made, for a stated reason."""


class BenchData(Part):
    """Examples used for training and evaluation."""

    task: PlainName
    source: dict[str, str]
    """Source of the examples: names, versions, digests."""
    splits: tuple[DataSplit, ...]
    """Splits in order of use: training, then evaluation."""
    eval_role: Literal["dev", "confirm"]
    counts: dict[str, int]
    """Rows read, duplicates and conflicts left out, and other counts of the task."""
    groups: tuple[int, ...] | None = absent_at(None)
    """Group of each example, in the order of the records: those of one group are not independent. Absent if each is
    its own."""
    looks: tuple[int, ...] = absent_at(())
    """Planned looks of the ladder, as in plan.json."""


class BenchEnvironment(Part):
    """Settings and versions that can change the last digits of a number."""

    engine: str = absent_at("transformers")
    """Engine that produced the answers, if it is not transformers. KL and flips are always measured by transformers."""
    device: str
    """`cpu`, or the name of the accelerator."""
    dtype: str
    quantization: str | None = None
    threads: int
    processes: int = 1
    versions: dict[str, str]


class TrainingFacts(Part):
    """Facts about one training run."""

    steps: int
    planned_steps: int
    loss: Float12 | None
    """Training loss of the last logging interval."""
    diverged: bool
    tokens: int
    """Tokens of one pass over the examples, without padding."""
    seconds: Float12
    peak_memory_bytes: int | None
    initial_adapter_sha256: str
    """sha256 over everything trainable before the first step: two seeds with the same value are one run."""
    first_batch_sha256: str


class Gate(Part):
    """Requirements on the probe before any conclusion is drawn from it."""

    min_value: Share
    passed: bool
    above_base: Share | None = None
    """Share by which the probe's accuracy must exceed that of the base; null if there is no such requirement."""
    base_correct: int | None = None
    """Examples that the base answers correctly."""
    base: Literal["without an adapter", "most frequent label"] | None = None
    """Source of the base's answers."""


class Measures(Part):
    """Measurements of one adapter."""

    lora_params: int
    """Parameters of its LoRA factors, counted in the file."""
    other_params: int
    """Other parameters in the file: a classifier's head."""
    bytes: int
    adapter_sha256: str
    n: int
    """Examples that were evaluated."""
    correct: int
    score: Float12
    """correct / n."""
    correct_examples: str
    """Bit mask of the correct examples in the order of the records, the first as the highest bit of the first
    byte, in base64. An example has the same position in every seed."""
    metrics: dict[str, Float12] = Field(default_factory=dict)
    """Other metrics of the task, such as F1 or another way of extracting the answer."""
    cut_off: int = 0
    """Outputs cut off at `max_new_tokens`."""
    failed_extractions: int = 0
    """Outputs without an extractable answer; counted as wrong."""
    truncated: int = 0
    """Inputs truncated because they were too long."""
    records: PlainName
    """File with one line per example, relative to this file."""
    records_sha256: str
    training: TrainingFacts | None = None
    """Null if nothing was trained: a truncation."""
    seconds: Float12
    """Duration of making and evaluating the adapter, in seconds."""
    peak_memory_bytes: int | None = None

    @model_validator(mode="after")
    def _score_is_the_share(self) -> Measures:
        if not 0 <= self.correct <= self.n or not self.n:
            raise ValueError(f"{self.correct} correct of {counted(self.n, 'example')}")
        if self.score != round_significant(self.correct / self.n):
            raise ValueError(f"score {self.score} is not {self.correct}/{self.n}")
        answers = self.answers()
        if sum(answers) != self.correct:
            raise ValueError(f"{sum(answers)} correct by `correct_examples`, and {self.correct} by `correct`")
        return self

    def answers(self) -> tuple[bool, ...]:
        """Return one bool per example, in the order of the records: True if it is correct."""
        return unpack(self.correct_examples, self.n)


class Probe(Measures):
    """The adapter at the full rank."""

    rank: int
    gate: Gate


class AuditSummary(Part):
    """Summary of the probe's audit; the full audit is in audit.json."""

    suggested_r_global_median: int | None
    suggested_r_global_90: int | None
    energy_rank_90_p50: Float12 | None
    energy_rank_90_p90: Float12 | None
    stable_rank_mean: Float12 | None
    effective_rank_mean: Float12 | None
    utilization_mean: Float12 | None


class DivergenceSummary(Part):
    """Distance of the outputs from the probe's, regardless of correctness."""

    kl_per_example: Float12
    """KL(probe ‖ variant) in nats, summed over the tokens of an answer, mean over examples."""
    kl_per_example_standard_error: Float12 | None
    flips: int
    """Examples with a different label; in free text, tokens of the gold answer with a different most likely token."""


class RankSummary(Part):
    """Summary of the module ranks."""

    smallest: int
    median: Float12
    largest: int
    modules: int


class PooledEvidence(Part):
    """Combined evidence of several runs on the same examples.

    >>> from fractions import Fraction
    >>> import numpy as np
    >>> from gradience.statistics.pooled import pool
    >>> differences = np.zeros((3, 500), dtype=int)      # three seeds, 500 examples
    >>> differences[:, :6], differences[:, 6:10] = -1, 1  # each seed: 6 lost, 4 gained
    >>> evidence = PooledEvidence.of(pool(differences), Fraction("0.025"))
    >>> evidence.delta, round(evidence.over_trainings.low, 4), round(evidence.next_training.low, 4)
    (-0.004, -0.0168, -0.0295)
    """

    runs: int
    examples: int
    """Examples of each run; all runs have the same ones."""
    margin: Share
    """The loss that must be ruled out."""
    delta: Float12
    """Candidate − reference, mean over runs and examples."""
    these_runs: Bounds
    """Bounds with the runs fixed: only the examples are a sample."""
    over_trainings: Bounds | None
    """Bounds on the mean over all training runs that the recipe could produce. Null below three runs."""
    next_training: Bounds | None
    """Bounds on one more training run, if runs vary normally. Null below three runs."""
    discordance: Float12 | None
    """Share of pairs in which exactly one of the two is correct; null unless scores are 0/1."""
    run_spread: Float12 | None
    """τ: standard deviation of a run's true difference, excluding the choice of examples. Null for one run."""

    @classmethod
    def of(cls, pooled: Pooled, margin: Fraction, *, look: Look | None = None) -> Self:
        """Return the evidence of pooled runs against a margin. look: the bounds hold over all looks."""

        def bounds(claim: Claim) -> Bounds:
            p_value, confidence = pooled.p_value(float(margin), claim), 0.90
            if look is not None:
                p_value, confidence = look.p_value(p_value), look.confidence(confidence)
            return Bounds.of(pooled.interval(claim, confidence), p_value)

        several = pooled.runs >= MIN_SEEDS
        return cls(
            runs=pooled.runs,
            examples=pooled.examples,
            margin=margin,
            delta=pooled.delta,
            these_runs=bounds("these-runs"),
            over_trainings=bounds("mean-over-trainings") if several else None,
            next_training=bounds("next-training") if several else None,
            discordance=pooled.discordance,
            run_spread=None if pooled.run_variance is None else math.sqrt(pooled.run_variance),
        )

    def bounds(self, claim: LadderBound) -> Bounds | None:
        """Return the bounds of a ladder's claim."""
        return self.these_runs if claim == "these-runs" else self.over_trainings


class NoiseFloor(Part):
    """Differences between adapters of equal size."""

    comparisons: int
    discordance: Float12
    """Mean share of examples on which exactly one of the two is correct."""
    delta_sd: Float12
    """Root mean square of the difference in accuracy."""
    largest_delta: Float12

    @classmethod
    def of(cls, differences: NDArray[np.int8]) -> Self:
        """Return the noise of paired differences: (comparisons, examples), −1, 0 or 1.

        >>> import numpy as np
        >>> floor = NoiseFloor.of(np.array([[0, 1, 0, 0], [0, 0, -1, 0], [0, -1, -1, 0]]))
        >>> floor.comparisons, round(floor.discordance, 3), round(floor.largest_delta, 3)
        (3, 0.333, 0.5)
        """
        deltas = differences.mean(axis=1)
        return cls(
            comparisons=len(differences),
            discordance=float(abs(differences).mean()),
            delta_sd=math.sqrt(float((deltas**2).mean())),
            largest_delta=float(abs(deltas).max()),
        )


class VariantEvidence(Part):
    """Evidence for the verdict on one variant."""

    grade: Grade | None
    """Null for a control, and for a variant that was not made: nothing is claimed about either."""
    reason: str
    """Explanation of the grade in one sentence; empty without a grade."""
    pooled: PooledEvidence | None
    """Null if the per-example answers are unknown."""
    adjusted_p: Probability | None
    """Adjusted p-value of the claim about the next training run, which grade A is based on: one error rate for
    all candidates of the plan and the ladder (Holm), whose steps follow each other. Null below three seeds, and
    for controls."""
    adjusted_p_these_runs: Probability | None
    """Adjusted p-value of the claim about these runs, which grade B is based on, in the same way; for a step, of
    the ladder's bound. Null for controls."""
    family: int | None
    """Number of claims that share the error rate: the candidates, and the ladder as one."""
    next_grade: NextGrade | None
    """Null for A, D and X, without a grade, and if the variant fails the policy."""


class Noise(Part):
    """Differences between adapters of equal size: the noise floors."""

    probes: NoiseFloor | None
    """The probes of different seeds compared with each other, on the same examples."""
    rewrite_control: NoiseFloor | None
    """The rewrite control compared with the probe of its seed: the same update in other factors."""


StepStatus = Literal["shown", "inconclusive", "not tested", "not smaller"]


class Step(Part):
    """One step of the ladder."""

    name: str
    """Name of the result."""
    step: int
    """Its rank."""
    status: StepStatus
    """`not smaller`: no rank is below the probe's. `not tested`: the sequence had stopped above it; its row
    among the variants is exploratory."""
    reason: str = ""
    """Reason why it could not be tested."""
    delta: Float12 | None
    low: Float12 | None
    """The lower bound that was compared with the margin."""
    p_value: Probability | None
    adjusted_p: Probability | None = None
    """Adjusted for the steps above and the candidates: at most 0.05 for a step that is shown."""
    examples: int | None = absent_at(None)
    """Examples of each seed at the look that decided; absent if all were evaluated at once."""
    stopped: str | None = absent_at(None)
    """Reason for stopping at that look: `shown`, `worse`, `conditional power`, `last look`."""

    @property
    def words(self) -> str:
        """The status, and why nothing could be tested."""
        return (
            f"{self.status}: {self.reason}" if self.reason and self.status == "inconclusive" else self.status
        )


class NextStep(Part):
    """Requirements of the first step that was not shown, for a chance of 80 % if its true difference is the
    observed one, or 0 if that is above 0."""

    name: str
    examples: int | None
    """Examples needed with the same number of seeds; null if no number is enough."""
    examples_range: tuple[int, int] | None = absent_at(None)
    """The same at both ends of the 95 % interval of the discordance. Absent if no number is enough."""
    seeds: int | None
    """Seeds needed with the same number of examples; null if 100 are not enough."""


class Ladder(Part):
    """The smallest rank that is shown within the margin: steps are tested from the top until one is not shown."""

    bound: LadderBound
    """The bound that was tested: `these-runs` below three seeds, which give no evidence about other training runs."""
    margin: Share
    steps: tuple[Step, ...]
    smallest_safe: str | None
    """The last step that is shown; null if none is."""
    sentence: str
    next_step: NextStep | None
    """Null if all steps are shown, or none could be tested."""


class OfAnArm(Part):
    """Name and arm of a variant's result, on one seed or on all."""

    name: PlainName
    """`uniform_median`; `uniform_median.truncate`."""
    arm: str
    """`retrain`, `truncate`, `ladder` (a step of it, truncated), or `control`."""
    description: str = ""
    """Description of the variant; for a control, also its purpose."""
    expected: Literal["PASS", "FAIL"] | None = None
    """Status that a control must have; null if none is expected."""
    made_by: str
    """Method: `retrain` or `truncate`. `random_directions`: the probe's factors kept in random
    directions. `head`: ΔW = 0, only a head is trained. `rotate`: the same update in other factors: only
    rounding differs."""
    status: Status
    """PASS and FAIL: the policy's tolerance applied to the counts of one seed, or the policy to all seeds."""
    reasons: tuple[str, ...] = ()
    """Reasons for the status, in words."""
    guards: dict[PlainName, EvaluatedAdapter] = absent_at({})
    """Guard -> result on it; over several seeds, on the seed with the largest loss. Absent without guards, and for a
    control."""
    evidence: VariantEvidence | None = None
    """Evidence for the verdict. Null for one seed of several, which are graded together, and for a smoke run."""

    @property
    def grade(self) -> Grade | None:
        """The grade; None without evidence."""
        return None if self.evidence is None else self.evidence.grade

    @property
    def pooled(self) -> PooledEvidence | None:
        """Evidence of all seeds together; None if the per-example answers are unknown."""
        return None if self.evidence is None else self.evidence.pooled

    @property
    def is_control(self) -> bool:
        """True if the variant is a control, which checks the measurement itself."""
        return self.arm == "control"

    @property
    def is_step(self) -> bool:
        """True if the variant is a step of the ladder."""
        return self.arm == "ladder"

    @property
    def is_candidate(self) -> bool:
        """True if the variant is neither a control nor a step of the ladder."""
        return not self.is_control and not self.is_step

    @property
    def as_expected(self) -> bool | None:
        """True if a control has its expected status; None if no status is expected, or there is no result."""
        known = self.expected is not None and self.status in ("PASS", "FAIL")
        return self.status == self.expected if known else None


class VariantResult(OfAnArm):
    """One smaller adapter, or control, compared with the probe of this seed."""

    stopped_early: bool = False
    """True if SKIPPED because the variant could not pass any more, regardless of this seed."""
    same_as: str | None = None
    """The variant that these numbers were copied from: it has the same ranks and is made in the same way.
    `probe`: no rank is smaller than the probe's."""
    rank_basis: str = ""
    """Basis of the ranks, before rounding."""
    ranks: RankSummary | None = None
    planned_lora_params: int | None = None
    """LoRA parameters computed from shapes and ranks. Equal to `lora_params`, otherwise the status is ERROR."""
    reduction: Float12 | None = None
    """1 − planned_lora_params / the probe's: only LoRA factors, without heads."""
    measures: Measures | None = None
    pairs: PairedTable | None = None
    """Paired counts, with the probe as the reference, and the evidence for a difference from this seed only."""
    delta: Float12 | None = None
    """Variant − probe, as a share of the examples."""
    delta_exact: str | None = None
    """The difference as exact counts: `-5/200`."""
    divergence: DivergenceSummary | None = None
    predicted: Prediction | None = None
    """Cost predicted from training prompts; null except for a truncation chosen by a calibration."""


R = TypeVar("R", bound=OfAnArm)


class Judged(Report, Generic[R]):
    """The part that the result of one seed and that of several share."""

    row_field: ClassVar[str] = "variants"

    schema_: str
    status: Status
    """ERROR if any result is an ERROR, or a planned seed has none; otherwise PASS if a variant passes."""
    reasons: tuple[str, ...] = ()
    model: str
    model_type: Literal["seqcls", "causal_lm"]
    base_params: int | None
    """Parameters of the base model."""
    base_fingerprint: str
    """The commit on the hub, or a digest of the folder's files."""
    protocol_digest: str
    policy: Policy
    guards: tuple[PlannedSet, ...] = absent_at(())
    """Further data sets on which every variant must hold on every seed. Absent without any."""
    planned_seeds: tuple[int, ...]
    """All seeds that were planned together."""
    variants: tuple[R, ...]
    """Variants, then the steps of the ladder, then the controls."""
    best: str | None
    """The variant that passes and saves most, excluding controls and duplicates; null if none passes."""
    ladder: Ladder | None = None
    """The smallest rank that is shown within the margin. Null if no ladder was planned, and for one seed of several."""
    notes: tuple[str, ...] = ()
    """Limits of the verdicts."""
    run: RunInfo

    @property
    def candidates(self) -> tuple[R, ...]:
        """Return the variants without the controls and the ladder."""
        return tuple(variant for variant in self.variants if variant.is_candidate)

    @property
    def steps(self) -> tuple[R, ...]:
        """Return the steps of the ladder among the variants."""
        return tuple(variant for variant in self.variants if variant.is_step)

    @property
    def controls(self) -> tuple[R, ...]:
        """Return the controls among the variants."""
        return tuple(variant for variant in self.variants if variant.is_control)


class Bench(Judged[VariantResult]):
    """`bench.json`: one seed of Bench.

    >>> bench = Bench.read("bench.json")
    >>> bench.status, bench.best
    ('PASS', 'per_layer')
    """

    plots: ClassVar[Plots] = COMPARED_PLOTS
    repair: ClassVar[str] = (
        "make it again: gradience bench run with the same --config and --output, which uses the finished stages"
    )

    schema_: Literal["gradience.bench/4"] = "gradience.bench/4"
    smoke: bool
    """True for a shortened run, which checks that everything works: no evidence, regardless of the verdicts."""
    seed: int
    config: dict[str, Any]
    config_digest: str
    plan_digest: str
    """SHA-256 of plan.json, written before training."""
    data: BenchData
    environment: BenchEnvironment
    probe: Probe | None
    """Null if it ended in an ERROR."""
    audit: AuditSummary | None
    """Null if the probe did not reach its gate: nothing is suggested from such a probe."""

    def blocks(self) -> doc.Document:
        """Return the sections."""
        return list(bench_blocks(self))

    @model_validator(mode="after")
    def _pairs_are_those_of_the_answers(self) -> Bench:
        probe = self.probe.answers() if self.probe else None
        for result in self.variants:
            answers = result.measures.answers() if result.measures else None
            if probe is None or answers is None or result.pairs is None:
                continue
            same = len(probe) == len(answers) or len(answers) in self.data.looks
            if not same or PairedTable.of(probe[: len(answers)], answers) != result.pairs:
                raise ValueError(f"{result.name}: `correct_examples` and `pairs` disagree")
        return self

    def variant(self, name: str) -> VariantResult | None:
        """Return the variant with this name."""
        return next((result for result in self.variants if result.name == name), None)


class SeedRow(Part):
    """One planned seed."""

    seed: int
    source: str | None
    """The bench.json that was read; null for a failed seed without one."""
    status: Status
    plan_digest: str | None = None
    """Digest of the plan that the seed's run followed."""
    correct: int | None = None
    """Examples that the probe answers correctly."""
    n: int | None = None
    score: Float12 | None = None
    gate_passed: bool | None = None
    lora_params: int | None = None
    other_params: int | None = None


class Spread(Part):
    """A score over seeds."""

    seeds: int
    """Number of seeds with a score."""
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
    """The difference as exact counts: `-5/200`."""
    reduction: Float12 | None = None
    largest_rank: int | None = None
    same_as: str | None = None
    stopped_early: bool = False
    """True if not trained because the variant could not pass any more."""


class VariantSummary(OfAnArm):
    """One variant over the planned seeds."""

    passing: int
    """Planned seeds that pass; seeds without a result do not count."""
    planned: int
    pass_rate: Share
    """passing / planned, exactly: `2/3`. It is compared with the policy's `pass_rate`."""
    worst_delta: Float12 | None
    """The smallest difference over the seeds with a result."""
    worst_delta_exact: str | None
    accuracy: Spread | None
    """Accuracy over the seeds with a result; `accuracy.seeds` is their number."""
    mean_reduction: Float12 | None
    """Mean share of LoRA parameters saved, over the seeds with known ranks."""
    seeds: tuple[VariantSeed, ...]

    @property
    def complete(self) -> bool:
        """True if every planned seed has counts."""
        return all(row.n for row in self.seeds)

    @property
    def seeds_passed(self) -> str:
        """How many seeds pass; of those that were run, if the others could not change the verdict."""
        stopped = sum(row.stopped_early for row in self.seeds)
        return f"{self.passing} of {self.planned - stopped}" + (", then stopped" if stopped else "")


class BenchAggregate(Judged[VariantSummary]):
    """`bench_aggregate.json`: the seeds of one protocol together.

    >>> together = BenchAggregate.read("bench_aggregate.json")
    >>> together.status, together.planned_seeds
    ('PASS', (42, 123, 456, 789, 1011))
    """

    plots: ClassVar[Plots] = COMPARED_PLOTS
    repair: ClassVar[str] = "aggregate the runs again: gradience bench aggregate DIR… --output DIR"

    schema_: Literal["gradience.bench_aggregate/4"] = "gradience.bench_aggregate/4"
    task: str
    eval_role: Literal["dev", "confirm"]
    splits: tuple[DataSplit, ...]
    seeds: tuple[SeedRow, ...]
    probe_rank: int | None
    probe: Spread | None
    """Null if no seed has a probe."""
    noise: Noise | None = None
    """Differences between adapters of equal size."""
    records_verified: bool = False
    """True if the counts are known to match the records: counted from them by the same process, or verified."""

    def blocks(self) -> doc.Document:
        """Return the sections, and each variant's Δ on each seed."""
        aside = "probe: correct answers; variants: Δ in points"
        return [*aggregate_blocks(self), doc.Heading("Seeds", aside=aside, folded=True), _seeds(self)]

    def screen(self, view: doc.View) -> doc.Document:
        """Return the sections."""
        return list(aggregate_blocks(self))


BOUNDS: dict[LadderBound, str] = {
    "these-runs": "these runs",
    "mean-over-trainings": "the mean over trainings",
}
"""Description of each bound."""
POWER = "80 % power and the observed Δ and noise"
Run = Bench | BenchAggregate
Outcome = StepStatus | Literal["worse"]
Result = VariantResult | VariantSummary
Cell = tuple[doc.Column, Callable[[Any], doc.Inline]]
"""A column of a table, and the function that returns its cell of a row."""

SMOKE = "smoke run, no evidence"
ROLES: dict[str, doc.Style] = {
    "PASS": "good",
    "FAIL": "bad",
    "ERROR": "bad",
    "INCONCLUSIVE": "warn",
    "UNDERTRAINED": "warn",
    "SKIPPED": "dim",
    SMOKE: "warn",
    "as expected": "good",
    "not as expected": "bad",
}
STEP_TONES: dict[Outcome, doc.Tone] = {"shown": "good", "inconclusive": "warn", "worse": "bad"}
"""Colors of steps that were tested."""
WARNING = "warning: "
SPLITS = {"dev": "dev", "confirm": "test"}
SAVED = ("saved", "share of the LoRA parameters saved, without classifier heads")


# ---------------------------------------------------------------- figures


def points(delta: float | None) -> str:
    """Return a difference of shares in percentage points, with its sign: −2.50."""
    return MISSING if delta is None else signed_points(delta)


def counted_points(delta: float | None, exact: str | None) -> str:
    """Return `−2.50 (−62/2,186)`: the counts show differences that rounded points hide."""
    if delta is None or exact is None:
        return MISSING
    sign = "−" if exact.startswith("-") else "+" if delta else ""
    lost, n = exact.removeprefix("-").split("/")
    return f"{points(delta)} ({sign}{int(lost):,}/{int(n):,})"


def mean_percent(spread: Spread | None) -> str:
    """Return `28.5 % ± 1.5`, the standard deviation over seeds; without ± for one seed."""
    if spread is None:
        return MISSING
    return f"{100 * spread.mean:.1f} %" + ("" if spread.sd is None else f" ± {100 * spread.sd:.1f}")


def p_value(value: float | None) -> str:
    """Return a p-value with two digits, from 0.001 on."""
    return "< 0.001" if value is not None and value < 0.001 else sig(value, 2)


def saving(result: Result | None) -> float | None:
    """Return the share of the LoRA parameters saved, on one seed or as a mean."""
    if result is None:
        return None
    return result.reduction if isinstance(result, VariantResult) else result.mean_reduction


def status(word: str) -> doc.Span:
    """Return a status with its color."""
    return doc.Span(word, ROLES.get(word, ""))


def status_of(result: Result) -> doc.Span:
    """Return the status of a variant; for a control, as expected or not, because its PASS is no claim."""
    if not result.is_control or result.status not in ("PASS", "FAIL"):
        return status(result.status)
    if isinstance(result, VariantSummary) and not result.complete:
        return status("seeds missing")
    return status({None: "for comparison", True: "as expected", False: "not as expected"}[result.as_expected])


def letter(result: Result) -> doc.Inline:
    """Return the grade of a variant, or a dash."""
    return MISSING if result.grade is None else doc.Span(result.grade, GRADE_TONES[result.grade])


def _name(row: Result | Step) -> doc.Inline:
    return doc.Span(row.name, "name")


def _interval(bounds: Bounds | PairedTable | None) -> str:
    return MISSING if bounds is None else f"{points(bounds.low)} … {points(bounds.high)}"


def _is_compared(result: Result) -> bool:
    """Return True if the variant was compared with the probe, on one seed at least."""
    delta = result.delta if isinstance(result, VariantResult) else result.worst_delta
    return delta is not None


# ---------------------------------------------------------------- sections of one seed and of several


def _opening(run: Run, task: str, seeds: str, facts: Sequence[doc.Fact]) -> Iterator[doc.Block]:
    """Yield the verdict on the run, the smallest variant that passes with its grade, the smallest rank of the ladder,
    and controls with unexpected results, which undermine the other verdicts. Then facts about the probe."""
    is_smoke = isinstance(run, Bench) and run.smoke
    title = ("Bench ", status(SMOKE if is_smoke else run.status), ": ", doc.Span(run.model, "name"), " on ")
    yield doc.Heading((*title, doc.Span(task, "name"), f", {seeds}"), level=1)
    best = next((variant for variant in run.candidates if variant.name == run.best), None)
    if is_smoke:
        text = "Smoke run: shortened to check that everything works. It is no evidence."
        yield doc.Paragraph(doc.Span(text, "warn"))
    elif best is not None:
        saved = f", with {percent(saving(best))} fewer LoRA parameters."
        yield doc.Paragraph(("Smallest variant that passes: ", doc.Span(best.name, "name"), saved))
    elif run.status == "FAIL":
        yield doc.Paragraph("No variant passes.")
    unexpected = [control.name for control in run.controls if control.as_expected is False]
    warnings = [f"{name} is not as expected. See Controls." for name in unexpected]
    warnings += [note.removeprefix(WARNING) for note in run.notes if note.startswith(WARNING)]
    notes = [
        *doc.items(_of_run(run)).notes,
        *doc.warned(warnings).notes,
        *_grade_notes(run, of_best=True),
    ]
    if run.ladder is not None:
        safe = run.ladder.smallest_safe
        saved_most = saving(next((step for step in run.steps if step.name == safe), None))
        keeps = "" if saved_most is None else f" It has {percent(saved_most)} fewer LoRA parameters."
        notes.append(doc.Note("good" if safe else "unknown", f"Rank ladder: {run.ladder.sentence}.{keeps}"))
    yield doc.Notes(notes)
    yield doc.Facts(facts)


def _probe_row(rank: int | None, correct: str, splits: Iterable[DataSplit]) -> doc.Fact:
    """Return the rank of the probe, the size of its training split, and its accuracy in words."""
    of_rank = [] if rank is None else [f"rank {rank}"]
    trained = [f"trained on {split.n:,} examples" for split in splits if split.role == "train"]
    return "probe", ", ".join([*of_rank, *trained, correct])


def _variants(run: Run, cells: Sequence[Cell], legend: Sequence[doc.Fact]) -> Iterator[doc.Block]:
    """Yield the table of the candidates, reasons of those that do not simply pass, and the legend.

    cells: the columns of Δ."""
    compared = [result for result in run.candidates if _is_compared(result)]
    seed = "" if isinstance(run, Bench) else " of the same seed"
    yield doc.Heading("Variants", aside=f"compared with the probe{seed} on the same examples")
    table = _table(compared, [*cells, *map(_guard_cell, run.guards)])
    if compared:
        yield table
    yield doc.items(_reasons(run))
    if compared:
        yield doc.Facts([*legend, SAVED, *_ways(compared), *doc.legend_of(table)])


def _table(results: Sequence[Result], cells: Sequence[Cell]) -> doc.Table:
    return doc.table_of(
        results,
        (doc.Column(), _name),
        (doc.Column("status"), status_of),
        (doc.Column("grade", shown=any(letter(row) != MISSING for row in results)), letter),
        (doc.Column("max rank", ">", drop=5), _largest_rank),
        (doc.Column("saved", ">", drop=6), lambda row: percent(saving(row))),
        *cells,
    )


def _largest_rank(result: Result) -> str:
    """Return the largest rank of a module, as a range if the seeds differ."""
    if isinstance(result, VariantResult):
        return MISSING if result.ranks is None else str(result.ranks.largest)
    return number_range(row.largest_rank for row in result.seeds if row.largest_rank is not None)


def _ways(variants: Iterable[Result]) -> list[doc.Fact]:
    """Return the suffixes of the names, and how the variants with each suffix are made."""
    ways = {variant.name.partition(".")[2]: variant.description for variant in variants}
    return [(f".{suffix}" if suffix else "no suffix", words) for suffix, words in ways.items() if words]


def _guard_cell(guard: PlannedSet) -> Cell:
    """Return the column of a guard, with its legend."""
    name, unit = ("ΔNLL", " (positive is worse)") if guard.compares == "nll" else ("Δ", ", in points")
    data = f"guard: {guard.examples:,} examples of {guard.task}, margin {guard.margin_words}"
    column = doc.Column(f"{guard.name} {name}", ">", legend=f"{data}; variant − probe{unit}")
    return column, lambda row: delta_cell(row.guards[guard.name]) if guard.name in row.guards else MISSING


def _of_run(run: Run) -> tuple[str, ...]:
    """Return the reasons at the top: those of a run that has neither passed nor failed."""
    return () if run.status in ("PASS", "FAIL") else run.reasons


def _reasons(run: Run) -> Iterator[str]:
    """Yield why variants do not simply pass and controls have no result, except for reasons at the top; and notes."""
    names: dict[str, list[str]] = {}
    for result in run.variants:
        why = "; ".join(why for why in result.reasons if not any(top.endswith(why) for top in _of_run(run)))
        passes = result.status == "PASS" and getattr(result, "same_as", None) is None
        in_table = _is_compared(result) and (result.is_control or result.is_step)
        if why and not passes and not in_table:
            names.setdefault(f"{result.status}: {why}", []).append(result.name)
    yield from (f"{', '.join(of)}: {why}" for why, of in names.items())
    yield from (note for note in run.notes if not note.startswith(WARNING))


def _grades(run: Run) -> Iterator[doc.Block]:
    """Yield the grades of the variants other than the best, and what better ones need."""
    yield doc.Heading("Grades", aside=f"sample sizes assume {POWER}")
    yield doc.Notes(_grade_notes(run, of_best=False))


def _grade_notes(run: Run, *, of_best: bool) -> list[doc.Note]:
    """Return the grades with their reasons, equal ones together: those of the best variant, or all others."""
    names: dict[tuple[Grade, str, str], list[str]] = {}
    for variant in run.candidates:
        if (evidence := variant.evidence) is not None and evidence.grade is not None:
            names.setdefault((evidence.grade, evidence.reason, _needed(evidence)), []).append(variant.name)
    return [
        note
        for (grade, reason, needs), of in names.items()
        if (run.best in of) == of_best
        for note in grade_note(", ".join(of), grade, f"{reason}.", [f"{needs}."] if needs else [])
    ]


def _controls(run: Run, delta: Cell) -> Iterator[doc.Block]:
    """Yield the results of the controls with the purpose of each.

    delta: the column of their Δ."""
    musts = {"PASS": "must pass: ", "FAIL": "must fail: ", None: ""}
    aside = "not candidates: they check that the examples distinguish good adapters from bad ones"
    yield doc.Heading("Controls", aside=aside)
    yield doc.table_of(
        [control for control in run.controls if _is_compared(control)],
        (doc.Column(), _name),
        (doc.Column("result"), status_of),
        delta,
        (doc.Column("purpose", wrap=True, drop=1), lambda row: f"{musts[row.expected]}{row.description}"),
    )


def _policy(run: Run, n: int | None) -> doc.Fact:
    """Return the meaning of PASS: the policy. n: number of examples, if it is known."""
    rule, seeds = run.policy, len(run.planned_seeds)
    allowed = "" if n is None else f" ({allowed_losses(n, rule.tolerance):,} of {n:,} examples)"
    on = "every planned seed"
    if rule.floor > rule.tolerance:
        on = (
            f"{math.ceil(rule.pass_rate * seeds)} of {plural(seeds, 'planned seed')}"
            f" ({exact_percent(rule.pass_rate)}), and by at most {exact_text(100 * rule.floor)} points on the others"
        )
    guards = "; every guard holds on every seed" if run.guards else ""
    return "PASS", (
        f"accuracy drops by at most {exact_text(100 * rule.tolerance)} points{allowed} on {on}{guards}. A seed without"
        " a result counts as failed"
    )


# ---------------------------------------------------------------- evidence


def _needed(evidence: VariantEvidence) -> str:
    """Return what the next better grade needs; empty if no grade can improve."""
    needs, pooled = evidence.next_grade, evidence.pooled
    if needs is None or pooled is None:
        return ""
    wanted = amount(needs, pooled)
    if needs.grade == "A" and needs.seeds is None:
        wanted = f"{'more than 100' if pooled.next_training else f'at least {MIN_SEEDS}'} seeds"
    elif needs.grade == "A":
        seeds = needs.seeds or 0
        stays = f"{plural(seeds, 'seed')}, if mean and spread stay as observed"
        wanted = stays if seeds > pooled.runs else ""
    others = "; ".join(obstacle for obstacle in needs.obstacles if obstacle not in evidence.reason)
    sentences = [f"For grade {needs.grade}: {wanted}"] if wanted else []
    sentences += [f"Other obstacles to grade {needs.grade}: {others}"] if others else []
    return ". ".join(sentences)


def amount(needs: NextGrade | NextStep, pooled: PooledEvidence) -> str:
    """Return the number of examples or seeds needed."""
    examples, seeds = needs.examples, needs.seeds
    now, runs = f"{pooled.examples:,}", plural(pooled.runs, "seed")
    if pooled.delta <= -pooled.margin:
        return "no sample size is enough, because the observed drop is not smaller than the margin"
    if examples is not None and examples <= pooled.examples:
        return f"{now} examples and {runs} are enough"
    ends = sorted(
        {round_up(max(end, pooled.examples + 1)) for end in needs.examples_range or (examples or 0,)}
    )
    span = " to ".join(f"{end:,}" for end in ends)
    ways = [f"about {span} examples ({now} now) with {runs}"] if examples else []
    ways += [f"{plural(seeds, 'seed')} with these examples"] if seeds else []
    return ", or ".join(ways) or "neither more examples nor 100 seeds are enough"


def step_outcome(step: Step, result: Result | None, ladder: Ladder) -> Outcome:
    """Return the status of a step, or `worse` if a drop of the margin is shown by the ladder's bound."""
    bounds = result.pooled.bounds(ladder.bound) if result is not None and result.pooled is not None else None
    worse = step.status == "inconclusive" and bounds is not None and bounds.high < -ladder.margin
    return "worse" if worse else step.status


def ladder_section(ladder: Ladder, results: Sequence[Result]) -> Iterator[doc.Block]:
    """Yield the steps from the top, and the requirements of the first step that is not shown."""
    of_name = {result.name: result for result in results}

    def outcome(step: Step) -> doc.Span:
        word = step_outcome(step, of_name.get(step.name), ladder)
        return doc.Span(word if word == "worse" else step.words, STEP_TONES.get(word, "dim"))

    bound, at_looks = BOUNDS[ladder.bound], any(step.examples for step in ladder.steps)
    yield doc.Heading("Rank ladder", aside="truncations of the probe, tested from the largest down")
    yield doc.table_of(
        ladder.steps,
        (doc.Column(), _name),
        (doc.Column("result"), outcome),
        (
            doc.Column("examples", ">", shown=at_looks),
            lambda step: f"{step.examples:,}" if step.examples else MISSING,
        ),
        (doc.Column("Δ, points", ">"), lambda step: points(step.delta)),
        (doc.Column("lower bound", ">"), lambda step: points(step.low)),
        (doc.Column(f"p, {bound.removeprefix('the ')}", ">", drop=1), lambda step: p_value(step.p_value)),
        (doc.Column("saved", ">", drop=2), lambda step: percent(saving(of_name.get(step.name)))),
    )
    looks = " Examples: of each seed, when the test stopped; bounds and p hold at all looks."
    yield doc.dim(
        f"Shown: the lower 95 % bound ({bound}) is above −{exact_text(100 * ladder.margin)} points. Steps after the"
        " first that is not shown are exploratory. Adapters retrained at these ranks were not tested."
        f"{looks if at_looks else ''}"
    )
    needs = ladder.next_step
    if needs is not None and needs.name in of_name and (pooled := of_name[needs.name].pooled) is not None:
        wanted = f": {amount(needs, pooled)}. Sample sizes assume {POWER}."
        yield doc.Paragraph(("To show ", doc.Span(needs.name, "name"), wanted))


# ---------------------------------------------------------------- one seed


def bench_blocks(bench: Bench) -> Iterator[doc.Block]:
    """Yield the sections of one seed."""
    facts = [*_probe(bench), _audit(bench)]
    if (engine := bench.environment.engine) != "transformers":
        facts.append(("answers", f"by {engine}; KL and flips by transformers"))
    delta: Cell = (doc.Column("Δ, points", ">"), lambda row: points(row.delta))
    cells: list[Cell] = [
        (doc.Column("only probe", ">", drop=3), lambda row: f"{row.pairs.n10:,}" if row.pairs else MISSING),
        (doc.Column("only variant", ">", drop=1), lambda row: f"{row.pairs.n01:,}" if row.pairs else MISSING),
        delta,
        (doc.Column("95 % interval", ">", drop=4), lambda row: _interval(row.pairs)),
    ]
    n = bench.probe.n if bench.probe is not None else None
    legend = [
        _policy(bench, n),
        ("only probe", "examples that only the probe answers correctly; only variant: the reverse"),
        ("Δ", "variant − probe accuracy, in points"),
        ("95 % interval", "two-sided, of Δ; its lower end is a 97.5 % bound"),
    ]
    yield from _opening(bench, bench.data.task, f"seed {bench.seed}", facts)
    yield from _variants(bench, cells, legend)
    yield from _grades(bench)
    if bench.ladder is not None:
        yield from ladder_section(bench.ladder, bench.steps)
    else:
        yield doc.Heading("Rank ladder", aside="truncations of the probe; tested over all seeds together")
        yield _table(bench.steps, cells)
    yield from _controls(bench, delta)


def _probe(bench: Bench) -> list[doc.Fact]:
    """Return rank, accuracy and gate of the probe, and problems with its answers, if any."""
    probe = bench.probe
    if probe is None:
        return [("probe", "none")]
    verb = "passes" if probe.gate.passed else "fails"
    gate = f"{verb} the {exact_percent(probe.gate.min_value)} quality gate"
    if probe.gate.base_correct is not None:
        base = "the base model" if probe.gate.base == "without an adapter" else "the most frequent label"
        gate += f"; {base} has {probe.gate.base_correct:,} / {probe.n:,}"
    counts = [
        (probe.failed_extractions, "output", "without an answer (counted as wrong)"),
        (probe.cut_off, "output", "cut off (maximum length)"),
        (probe.truncated, "input", "truncated (too long)"),
    ]
    problems = "; ".join(f"{plural(number, noun)} {problem}" for number, noun, problem in counts if number)
    share = f"{probe.correct:,} / {probe.n:,} {SPLITS[bench.data.eval_role]} examples correct ({percent(probe.score)})"
    return [
        _probe_row(probe.rank, f"{share}: {gate}", bench.data.splits),
        *([("problems", problems)] if problems else []),
    ]


def _audit(bench: Bench) -> doc.Fact:
    """Return the ranks that the audit of the probe suggests, and the evidence before rounding."""
    audit = bench.audit
    if audit is None:
        failed = bench.probe is not None and not bench.probe.gate.passed
        return "audit", "none: the probe fails its quality gate" if failed else "none"
    return "audit", (
        f"90 % of the energy is in {trimmed(audit.energy_rank_90_p50)} directions (median over modules) or"
        f" {trimmed(audit.energy_rank_90_p90)} (90th percentile); suggested ranks:"
        f" {audit.suggested_r_global_median} and {audit.suggested_r_global_90}"
    )


# ---------------------------------------------------------------- several seeds


def aggregate_blocks(report: BenchAggregate) -> Iterator[doc.Block]:
    """Yield the sections of all seeds."""
    seeds = f"{noun(len(report.planned_seeds), 'seed')} {', '.join(map(str, report.planned_seeds))}"
    worst: Cell = (
        doc.Column("worst Δ, points", ">"),
        lambda row: counted_points(row.worst_delta, row.worst_delta_exact),
    )
    facts = [_probes(report), *_noise(report.noise)]
    yield from _opening(report, report.task, seeds, facts)
    cells, legend = _over_seeds(report)
    yield from _variants(report, [worst, *cells], legend)
    yield from _grades(report)
    if report.ladder:
        yield from ladder_section(report.ladder, report.steps)
    yield from _controls(report, worst)


def _over_seeds(report: BenchAggregate) -> tuple[list[Cell], list[doc.Fact]]:
    """Return the columns of passing seeds and of Δ over the seeds with its intervals, and their legend."""

    def pooled(show: Callable[[PooledEvidence], str]) -> Callable[[VariantSummary], str]:
        return lambda row: MISSING if row.pooled is None else show(row.pooled)

    known = [row.pooled for row in report.candidates if row.pooled is not None]
    several = any(each.next_training for each in known)
    cells: list[Cell] = [
        (doc.Column("seeds passed", ">", drop=2), lambda row: row.seeds_passed),
        (doc.Column("mean Δ", ">", shown=bool(known)), pooled(lambda each: points(each.delta))),
        (
            doc.Column("these runs", ">", drop=3, shown=bool(known)),
            pooled(lambda each: _interval(each.these_runs)),
        ),
        (
            doc.Column("next training", ">", drop=4, shown=several),
            pooled(lambda each: _interval(each.next_training)),
        ),
    ]
    n = next((row.n for row in report.seeds if row.n), None)
    legend: list[doc.Fact] = [
        _policy(report, n),
        ("Δ", "variant − probe accuracy, in points: on the worst seed, and the mean over seeds"),
    ]
    if known:
        interval = (
            "90 % interval of the mean Δ for these adapters, unadjusted; each end is a one-sided 95 % bound"
        )
        legend.append(("these runs", interval))
    if several:
        runs = max(each.runs for each in known)
        once_more = (
            "the same for one more training, if Δ is normally distributed across trainings. Without that assumption,"
            f" {runs} of {runs} good trainings only rule out a failure rate above"
            f" {100 * (1 - 0.05 ** (1 / runs)):.0f} %"
        )
        legend.append(("next training", once_more))
    return cells, legend


def _probes(report: BenchAggregate) -> doc.Fact:
    spread = report.probe
    if spread is None:
        return "probe", "none on any seed"
    ends = f"{100 * spread.low:.1f} to {100 * spread.high:.1f} %"
    over = "one seed" if spread.sd is None else f"mean ± SD over {plural(spread.seeds, 'seed')}; {ends}"
    n = next((row.n for row in report.seeds if row.n), 0)
    correct = f"{mean_percent(spread)} of {n:,} {SPLITS[report.eval_role]} examples correct ({over})"
    return _probe_row(report.probe_rank, correct, report.splits)


def _noise(noise: Noise | None) -> list[doc.Fact]:
    """Return the differences between adapters of equal size, if there are any."""
    floors = () if noise is None else (
        ("noise between seeds", noise.probes, "two probes of different seeds"),
        ("rounding noise", noise.rewrite_control, "the probe and its rewrite control"),
    )  # fmt: skip
    words = "{} disagree on {} of the examples; their accuracies differ by up to {} points"
    return [
        (label, words.format(who, percent(floor.discordance), points(floor.largest_delta).removeprefix("+")))
        for label, floor, who in floors
        if floor is not None and floor.discordance
    ]


def _seeds(report: BenchAggregate) -> doc.Table:
    """Return one column for each planned seed; a narrow terminal leaves out the last ones first."""
    most = len(report.seeds)
    columns = [doc.Column(str(row.seed), ">", drop=most - place) for place, row in enumerate(report.seeds)]
    probe = [
        f"{row.correct:,} / {row.n:,}" if row.correct is not None and row.n else status(row.status)
        for row in report.seeds
    ]
    rows: list[Sequence[doc.Inline]] = [("probe", *probe)]
    for variant in filter(_is_compared, report.candidates):
        cells = (points(row.delta) if row.delta is not None else status(row.status) for row in variant.seeds)
        rows.append((doc.Span(variant.name, "name"), *cells))
    return doc.Table([doc.Column("seed"), *columns], rows)
