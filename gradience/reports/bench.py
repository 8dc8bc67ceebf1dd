"""`bench.json`: one seed. The probe, what its audit says, and every smaller adapter against it, in counts.

A comparison is paired: the same examples, one by one. Everything that a verdict hangs on is an integer
here, and the records that the counts were made from are named with their digests, so that anybody can count again.
"""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from gradience.files.artifact import Float12, Part, round_significant
from gradience.files.packed import unpack
from gradience.files.shared_names import PlainName
from gradience.reports.base.blocks import Document, Heading, Note, Span, spans
from gradience.reports.base.graded import Ladder, VariantEvidence
from gradience.reports.base.prediction import PredictedDivergence
from gradience.reports.base.report import PlotOf, Plots, Report, compared_plots
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import DataSplit, Policy, Share
from gradience.statistics.table import PairedTable
from gradience.words import counted

Status = Literal["PASS", "FAIL", "INCONCLUSIVE", "UNDERTRAINED", "SKIPPED", "ERROR"]
"""FAIL: worse than the policy allows, or not shown on every planned seed. INCONCLUSIVE: some seeds say nothing.
UNDERTRAINED: the probe did not reach its gate. SKIPPED: not made, for a stated reason."""


class BenchData(Part):
    """Which examples were used to train and to evaluate."""

    task: PlainName
    source: dict[str, str]
    """Where they come from: names, versions, digests."""
    splits: tuple[DataSplit, ...]
    """As they were used: training, and evaluation."""
    eval_role: Literal["dev", "confirm"]
    counts: dict[str, int]
    """Rows read, duplicates and conflicts left out, and whatever else the task counts."""


class BenchEnvironment(Part):
    """What can move a number in its last digits."""

    engine: str = Field(default="transformers", exclude_if=lambda name: name == "transformers")
    """What answered, where it is not transformers, which measures KL and flips in any case."""
    device: str
    """`cpu`, or the name of the accelerator."""
    dtype: str
    quantization: str | None = None
    threads: int
    processes: int = 1
    versions: dict[str, str]


class TrainingFacts(Part):
    """How one training went."""

    steps: int
    planned_steps: int
    loss: Float12 | None
    """Of the last logging interval."""
    diverged: bool
    tokens: int
    """Of one pass over the examples, without padding."""
    seconds: Float12
    peak_memory_bytes: int | None
    initial_adapter_sha256: str
    """Over everything trainable before the first step: two seeds that share it are one run."""
    first_batch_sha256: str


class Gate(Part):
    """What the probe must reach before anything is concluded from it."""

    min_value: Share
    passed: bool
    above_base: Share | None = None
    """It must have more correct than its base, by more than this share; null: that is not asked."""
    base_correct: int | None = None
    """Examples that its base has correct."""
    base: Literal["without an adapter", "most frequent label"] | None = None
    """What answers for the base."""


class Measures(Part):
    """What was measured of one adapter."""

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
    """Which ones: a bit for each in the order of the records, the first the highest bit of the first byte, in base64.
    The same example has the same place in every seed."""
    metrics: dict[str, Float12] = Field(default_factory=dict)
    """What else the task reports: F1, another way of finding the answer."""
    cut_off: int = 0
    """Outputs that ended at `max_new_tokens`."""
    failed_extractions: int = 0
    """Outputs in which no answer was found; they count as wrong."""
    truncated: int = 0
    """Inputs that were too long and were cut."""
    records: PlainName
    """File with one line per example, relative to this file."""
    records_sha256: str
    training: TrainingFacts | None = None
    """Null where nothing was trained: a truncation."""
    seconds: Float12
    """Making and evaluating it."""
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
        """Whether each example is correct, in the order of the records."""
        return unpack(self.correct_examples, self.n)


class Probe(Measures):
    """The adapter at the full rank."""

    rank: int
    gate: Gate


class AuditSummary(Part):
    """The audit of the probe in short; audit.json lies beside it."""

    suggested_r_global_median: int | None
    suggested_r_global_90: int | None
    energy_rank_90_p50: Float12 | None
    energy_rank_90_p90: Float12 | None
    stable_rank_mean: Float12 | None
    effective_rank_mean: Float12 | None
    utilization_mean: Float12 | None


class DivergenceSummary(Part):
    """How far its outputs are from the probe's, whether correct or not."""

    kl_mean: Float12
    """KL(probe ‖ variant) in nats, summed over the tokens of an answer, mean over examples."""
    kl_standard_error: Float12 | None
    flips: int
    """Examples that get another label; in free text, tokens of the gold answer that get another most likely one."""


class RankSummary(Part):
    """The ranks of its modules."""

    smallest: int
    median: Float12
    largest: int
    modules: int


class OfAnArm(Part):
    """What a result of a variant is called, on one seed or on all, and which arm it belongs to."""

    name: PlainName
    """`uniform_median`; `uniform_median.truncate`."""
    arm: str
    """`retrain`, `truncate`, `ladder` (a step of it, truncated), or `control`."""

    @property
    def is_control(self) -> bool:
        """Whether it is there to measure the measurement."""
        return self.arm == "control"

    @property
    def is_step(self) -> bool:
        """Whether it belongs to the ladder."""
        return self.arm == "ladder"

    @property
    def is_candidate(self) -> bool:
        """Whether it is neither a control nor a step of the ladder."""
        return not self.is_control and not self.is_step


class VariantResult(OfAnArm):
    """One smaller adapter, or control, against the probe of this seed."""

    made_by: str
    """How it comes to be. `retrain`, `truncate`. `random_directions`: the probe's factors kept in random directions.
    `head`: ΔW = 0, a head trained alone. `rotate`: the
    same update in other factors: only rounding differs."""
    status: Status
    """PASS and FAIL: what the policy's tolerance says of the counts of this one seed."""
    reasons: tuple[str, ...] = ()
    """In words."""
    stopped_early: bool = False
    """SKIPPED because it could not pass any more, whatever this seed had said."""
    same_as: str | None = None
    """The variant whose numbers these are: it has the same ranks and is made in the same way. `probe`: no rank is
    smaller than the probe's."""
    rank_basis: str = ""
    """What the ranks rest on, before rounding."""
    ranks: RankSummary | None = None
    planned_lora_params: int | None = None
    """From shapes and ranks. Equal to `lora_params`, or this is an ERROR."""
    reduction: Float12 | None = None
    """1 − planned_lora_params / the probe's: LoRA factors only, no head in either."""
    measures: Measures | None = None
    pairs: PairedTable | None = None
    """The probe is the reference. How sure the difference is, by this seed alone."""
    delta: Float12 | None = None
    """Variant − probe, as a share of the examples."""
    delta_exact: str | None = None
    """The same as counted: `-5/200`."""
    evidence: VariantEvidence | None = None
    """How sure the verdict is. Null where several seeds are planned, which are graded together, of a smoke run, and in
    files of earlier versions."""
    divergence: DivergenceSummary | None = None
    predicted: PredictedDivergence | None = None
    """Null but for a truncation that a calibration has chosen."""

    @model_validator(mode="after")
    def _counts_agree(self) -> VariantResult:
        if (self.pairs is None) != (self.measures is None) and self.status != "ERROR":
            raise ValueError(f"{self.name}: counts of pairs and measures belong together")
        if self.pairs is None or self.measures is None:
            return self
        if self.pairs.n != self.measures.n:
            raise ValueError(f"{self.name}: {self.pairs.n} pairs and {self.measures.n} examples")
        if self.pairs.n11 + self.pairs.n01 != self.measures.correct:
            raise ValueError(f"{self.name}: pairs and `correct` disagree")
        if self.delta_exact != self.pairs.delta_as_counted:
            raise ValueError(f"{self.name}: delta_exact is not {self.pairs.delta_as_counted}")
        return self


class Best(Part):
    """The smallest adapter that passes, controls and duplicates left out."""

    name: str
    lora_params: int
    reduction: Float12


class Bench(Report):
    """`bench.json`: one seed of Bench.

    >>> bench = Bench.read("bench.json")
    >>> bench.status, bench.best.name
    ('PASS', 'per_layer')
    """

    row_field: ClassVar[str] = "variants"
    plots: ClassVar[Plots] = {
        **compared_plots("Variants", "Variants"),
        "ladder": PlotOf("compared:ladder_plot", ("Which is the smallest", "Ladder", "Variants")),
    }
    repair: ClassVar[str] = (
        "make it again: gradience bench run with the same --config and --output, which uses the finished stages"
    )

    schema_: Literal["gradience.bench/3"] = Field(default="gradience.bench/3", alias="schema")
    smoke: bool
    """Shortened, to see that everything works: no evidence, whatever the verdicts say."""
    status: Status
    """ERROR if something ended in one; else PASS if a variant passes."""
    reasons: tuple[str, ...] = ()
    seed: int
    planned_seeds: tuple[int, ...]
    """All seeds that were planned together, this one among them."""
    model: str
    model_type: Literal["seqcls", "causal_lm"]
    base_params: int | None
    """Parameters of the base model."""
    base_fingerprint: str
    """The commit on the hub, or a digest of the folder's files."""
    config: dict[str, Any]
    config_digest: str
    protocol_digest: str
    plan_digest: str
    """Of plan.json, which was written before anything was trained."""
    policy: Policy
    data: BenchData
    environment: BenchEnvironment
    probe: Probe | None
    """Null where it ended in an ERROR."""
    audit: AuditSummary | None
    """Null where the probe did not reach its gate: nothing is suggested from such a probe."""
    variants: tuple[VariantResult, ...]
    best: Best | None
    ladder: Ladder | None = None
    """The smallest rank that holds in this one run; null where none was planned, or several seeds are."""
    notes: tuple[str, ...] = ()
    run: RunInfo

    def blocks(self) -> Document:
        """Return the sections, with what the numbers rest on."""
        blocks: Document = resolve_name("gradience.report.bench:bench_blocks")(self)
        return blocks

    def screen(self) -> Document:
        """Return the sections."""
        blocks: Document = resolve_name("gradience.report.bench:bench_blocks")(self, sources=False)
        return blocks

    def page_heading(self, heading: Heading) -> Heading:
        """Return the title, without the verdict of a smoke run."""
        if not self.smoke:
            return heading
        before, _, *after = spans(heading.text)
        return replace(heading, text=(before, Span("smoke, no evidence", "warn"), *after))

    def page_opening(self, opening: Document) -> Document:
        """Leave out the smallest that passes of a smoke run: the next sentence takes it back."""
        return opening[1:] if self.smoke else opening

    def summary(self) -> list[Note] | None:
        """Return what controls and grade say, and the smallest rank of the ladder."""
        notes: list[Note] | None = resolve_name("gradience.report.bench.in_short:in_short")(self)
        return notes

    @model_validator(mode="after")
    def _pairs_are_those_of_the_answers(self) -> Bench:
        probe = self.probe.answers() if self.probe else None
        for result in self.variants:
            answers = result.measures.answers() if result.measures else None
            if probe is None or answers is None or result.pairs is None:
                continue
            if len(probe) != len(answers) or PairedTable.of(probe, answers) != result.pairs:
                raise ValueError(f"{result.name}: `correct_examples` and `pairs` disagree")
        return self

    @property
    def candidates(self) -> tuple[VariantResult, ...]:
        """The variants without the controls and the ladder."""
        return tuple(result for result in self.variants if result.is_candidate)

    @property
    def steps(self) -> tuple[VariantResult, ...]:
        """The steps among the variants."""
        return tuple(result for result in self.variants if result.is_step)

    @property
    def controls(self) -> tuple[VariantResult, ...]:
        """The controls among the variants."""
        return tuple(result for result in self.variants if result.is_control)

    def variant(self, name: str) -> VariantResult | None:
        """The variant of this name."""
        return next((result for result in self.variants if result.name == name), None)
