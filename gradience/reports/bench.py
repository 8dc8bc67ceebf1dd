"""`bench.json`, one seed of Bench, and `bench_aggregate.json`, the seeds of one protocol together.

Comparisons are paired, example by example. Every input of a verdict is an integer, and the records behind the counts
are named with their digests, so that anybody can repeat the counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import Field, model_validator

from gradience.files.artifact import Float12, Part, round_significant
from gradience.files.packed import unpack
from gradience.files.shared_names import PlainName
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Note,
    Notes,
    Paragraph,
    Role,
    Span,
    Table,
    dim,
    items,
    table_of,
)
from gradience.reports.base.exact import exact_percent, exact_text
from gradience.reports.base.graded import (
    BOUNDS,
    GRADES,
    MIN_RUNS,
    Bounds,
    Grade,
    Ladder,
    NextGrade,
    NextStep,
    Noise,
    PooledEvidence,
    Step,
    StepStatus,
    VariantEvidence,
    grade_note,
)
from gradience.reports.base.numbers import (
    MISSING,
    count,
    number_range,
    percent,
    plural,
    sig,
    size,
    trimmed,
)
from gradience.reports.base.prediction import Prediction
from gradience.reports.base.report import COMPARED_PLOTS, Plots, Report
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import PLANNED, DataSplit, PlannedSet, Policy, Share
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationReport, delta_cell, level_cell
from gradience.statistics.table import PairedTable
from gradience.words import counted, noun
from gradience.words import points as signed_points

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
    groups: tuple[int, ...] | None = Field(default=None, exclude_if=lambda groups: groups is None)
    """Group of each example, in the order of the records: those of one group are not independent. Absent if each is
    its own."""
    looks: tuple[int, ...] = Field(default=(), exclude_if=lambda looks: not looks)
    """Planned looks of the ladder, as in plan.json."""


class BenchEnvironment(Part):
    """Settings and versions that can change the last digits of a number."""

    engine: str = Field(default="transformers", exclude_if=lambda name: name == "transformers")
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
    evidence: VariantEvidence | None = None
    """Evidence for the verdict. Null for one seed of several, which are graded together, and for a smoke run."""

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

    schema_: str = Field(alias="schema")
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
    planned_seeds: tuple[int, ...]
    """All seeds that were planned together."""
    variants: tuple[R, ...]
    """Variants, then the steps of the ladder, then the controls."""
    best: str | None
    """The variant that passes and saves most, excluding controls and duplicates; null if none passes."""
    ladder: Ladder | None = None
    """The smallest rank that is shown to be safe. Null if no ladder was planned, and for one seed of several."""
    notes: tuple[str, ...] = ()
    """Meaning of the thresholds in numbers of examples, and limits of the verdicts."""
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

    schema_: Literal["gradience.bench/4"] = Field(default="gradience.bench/4", alias="schema")
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
    guards: dict[PlainName, EvaluationReport] = Field(
        default_factory=dict, exclude_if=lambda guards: not guards
    )
    """Guard -> evaluation of the probe, the candidates and the base on it. Absent without guards."""

    @property
    def planned_guards(self) -> tuple[PlannedSet, ...]:
        """Guards as described in the plan."""
        return tuple(
            PlannedSet(name=name, guard=True, **{field: getattr(report, field) for field in PLANNED})
            for name, report in self.guards.items()
        )

    def blocks(self) -> Document:
        """Return the sections."""
        return list(bench_blocks(self))

    def summary(self) -> list[Note] | None:
        """Return the results of the controls, the grade, and the smallest rank of the ladder."""
        return None if self.smoke else _summary(self)

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
    guards: dict[PlainName, EvaluatedAdapter] = Field(
        default_factory=dict, exclude_if=lambda guards: not guards
    )
    """Guard -> result on the seed with the largest loss. Absent without guards."""
    seeds: tuple[VariantSeed, ...]

    @property
    def complete(self) -> bool:
        """True if every planned seed has counts."""
        return all(row.n for row in self.seeds)


class BenchAggregate(Judged[VariantSummary]):
    """`bench_aggregate.json`: the seeds of one protocol together.

    >>> together = BenchAggregate.read("bench_aggregate.json")
    >>> together.status, together.planned_seeds
    ('PASS', (42, 123, 456, 789, 1011))
    """

    plots: ClassVar[Plots] = COMPARED_PLOTS
    repair: ClassVar[str] = "aggregate the runs again: gradience bench aggregate DIR… --output DIR"

    schema_: Literal["gradience.bench_aggregate/4"] = Field(
        default="gradience.bench_aggregate/4", alias="schema"
    )
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
    guards: tuple[PlannedSet, ...] = Field(default=(), exclude_if=lambda guards: not guards)
    """Further data sets on which every variant must hold on every seed. Absent without any."""

    def blocks(self) -> Document:
        """Return the sections."""
        return list(aggregate_blocks(self))

    def summary(self) -> list[Note] | None:
        """Return the results of the controls, the grade, and the smallest rank of the ladder."""
        return _summary(self)


MIN_SEEDS = MIN_RUNS
POWER = "80 % power and the observed Δ and noise"
Run = Bench | BenchAggregate
Outcome = StepStatus | Literal["worse"]
Result = VariantResult | VariantSummary
Row = tuple[str, Inline]

SMOKE = "smoke run, no evidence"
ROLES: dict[str, Role] = {
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
GRADE_ROLES: dict[Grade, Role] = {"A": "good", "B": "good", "C": "warn", "D": "bad", "X": "bad"}
STEP_ROLES: dict[Outcome, Role] = {
    "shown": "good",
    "inconclusive": "warn",
    "worse": "bad",
    "not tested": "dim",
    "not smaller": "dim",
}


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


def round_up(number: int) -> int:
    """Round up to two digits: 1,063 to 1,100.

    >>> round_up(1063), round_up(78), round_up(2401)
    (1100, 78, 2500)
    """
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return -(-number // unit) * unit


def saving(result: Result | None) -> float | None:
    """Return the share of the LoRA parameters saved, on one seed or as a mean."""
    if result is None:
        return None
    return result.reduction if isinstance(result, VariantResult) else result.mean_reduction


def status(word: str) -> Span:
    """Return a status with its color."""
    return Span(word, ROLES.get(word, ""))


def status_of(result: Result) -> Span:
    """Return the status of a variant; for a control, as expected or not, because its PASS is no claim."""
    if not result.is_control or result.status not in ("PASS", "FAIL"):
        return status(result.status)
    if isinstance(result, VariantSummary) and not result.complete:
        return status("seeds missing")
    return status({None: "for comparison", True: "as expected", False: "not as expected"}[result.as_expected])


def letter(result: Result | None) -> Inline:
    """Return the grade of a variant, or a dash."""
    grade = result.evidence.grade if result is not None and result.evidence is not None else None
    return MISSING if grade is None else Span(grade, GRADE_ROLES[grade])


def _interval(bounds: Bounds | PairedTable | None) -> str:
    return MISSING if bounds is None else f"{points(bounds.low)} … {points(bounds.high)}"


def _best_of(run: Run) -> Result | None:
    return next((variant for variant in run.variants if variant.name == run.best), None)


def _named(names: Iterable[str]) -> tuple[str | Span, ...]:
    """Return names, separated by commas."""
    return tuple(part for name in names for part in (", ", Span(name, "name")))[1:]


# ---------------------------------------------------------------- sections of one seed and of several


def _title(run: Run, task: str, seeds: str) -> Iterator[Block]:
    """Yield the verdict on the run, and the smallest variant that passes."""
    is_smoke = isinstance(run, Bench) and run.smoke
    title = ("Bench ", status(SMOKE if is_smoke else run.status), ": ", Span(run.model, "name"), " on ")
    yield Heading((*title, Span(task, "name"), f", {seeds}"), level=1)
    best = _best_of(run)
    if best is not None and not is_smoke:
        facts = f", with {percent(saving(best))} fewer LoRA parameters."
        yield Paragraph(("Smallest variant that passes: ", Span(best.name, "name"), facts))


def _data(base_params: int | None, splits: Iterable[DataSplit], role: str) -> list[Row]:
    """Return the size of the base model, and the examples: `7,473 training and 1,319 test examples`."""
    words = {"train": "training", "dev": "dev", "confirm": "test"}
    sizes = [f"{split.n:,} {words[split.role]}" for split in splits if split.role in ("train", role)]
    base = "unknown size" if base_params is None else f"{count(base_params)} parameters"
    return [("base model", base), ("data", f"{' and '.join(sizes)} examples")]


def _other_params(number: int) -> list[Row]:
    return [("other parameters", f"{count(number)} (not LoRA weights; counted separately)")] if number else []


def _ways(variants: Iterable[Result]) -> list[Row]:
    """Return the suffixes of the names, and how the variants with each suffix are made."""
    ways = {variant.name.partition(".")[2]: variant.description for variant in variants}
    return [(f".{suffix}" if suffix else "no suffix", words) for suffix, words in ways.items() if words]


GuardColumn = tuple[Column, Callable[[Any], Inline]]


def _guard_columns(
    guards: Sequence[PlannedSet], row_on: Callable[[str, Any], EvaluatedAdapter | None]
) -> list[GuardColumn]:
    """Return a column for each guard. row_on: (guard, variant) -> the variant's row on the guard."""

    def cell(guard: str) -> Callable[[Any], Inline]:
        return lambda variant: MISSING if (row := row_on(guard, variant)) is None else delta_cell(row)

    heads = [f"{guard.name} {'ΔNLL' if guard.compares == 'nll' else 'Δ'}" for guard in guards]
    return [(Column(head, ">"), cell(guard.name)) for head, guard in zip(heads, guards, strict=True)]


def _guard_legend(guards: Sequence[PlannedSet]) -> list[Row]:
    """Return a description of each guard."""
    return [
        (
            guard.name,
            f"guard: {guard.examples:,} examples of {guard.task}, margin {guard.margin_words}; variant − probe"
            + (" (positive is worse)" if guard.compares == "nll" else ", in points"),
        )
        for guard in guards
    ]


def _controls(results: Sequence[Result], table: Table) -> Iterator[Block]:
    """Yield the section of the controls with the purpose and the expected status of each; nothing without controls."""
    if results:
        musts = {"PASS": " (must pass)", "FAIL": " (must fail)", None: ""}
        purposes = {
            result.name.partition(".")[0]: f"{result.description}{musts[result.expected]}"
            for result in results
        }
        aside = "not candidates: they check that the examples distinguish good adapters from bad ones"
        yield Heading("Controls", aside=aside)
        yield table
        yield Facts([(name, purpose) for name, purpose in purposes.items() if purpose])


def _reasons(results: Iterable[Result]) -> Iterator[Block]:
    """Yield why variants do not simply pass and controls have no result."""
    names: dict[str, list[str]] = {}
    for result in results:
        why = "; ".join(result.reasons)
        measured = result.status in ("PASS", "FAIL")
        passes = result.status == "PASS" and getattr(result, "same_as", None) is None
        if why and not passes and not (result.is_control and measured):
            names.setdefault(why, []).append(result.name)
    if names:
        yield Heading("Reasons", folded=True)
        yield items(f"{', '.join(of)}: {why}" for why, of in names.items())


def _policy(rule: Policy, notes: Iterable[str], *, guarded: bool) -> Iterator[Block]:
    """Yield the safety policy, its meaning for this run, and limits of the verdicts."""
    yield Heading("Policy", folded=True)
    needed = "every planned seed passes"
    if rule.floor > rule.tolerance:
        needed = (
            f"at least {exact_percent(rule.pass_rate)} of the planned seeds pass and on no seed the drop is larger than"
            f" {exact_text(100 * rule.floor)} points"
        )
    yield Paragraph(
        f"A seed passes if accuracy drops by at most {exact_text(100 * rule.tolerance)} points. A variant passes if"
        f" {needed}. A seed without a result counts as failed."
        + (" On every seed, a variant must also hold on each guard." if guarded else "")
    )
    marked = []
    for note in notes:
        warning = note.removeprefix("warning: ")
        marked.append(Note("item" if warning == note else "warning", warning))
    noise = (
        "Answers also differ between trainings and between equal adapters. Compare Δ with the noise floors."
    )
    yield Notes([*marked, Note("item", noise)])


def _summary(run: Run) -> list[Note]:
    """Return unexpected results of controls, which undermine the other verdicts; the grade of the best
    variant; and the smallest rank of the ladder, to which the policy does not apply."""
    notes = [
        Note("warning", f"{control.name} is not as expected. See Controls.")
        for control in run.controls
        if control.as_expected is False
    ]
    best = _best_of(run)
    if best is not None and best.evidence and best.evidence.grade:
        mark, _ = GRADES[best.evidence.grade]
        notes.append(Note(mark, f"Grade {best.evidence.grade}, {best.evidence.reason}."))
    if run.ladder is not None:
        safe = run.ladder.smallest_safe
        saved = saving(next((step for step in run.steps if step.name == safe), None))
        keeps = "" if saved is None else f" It has {percent(saved)} fewer LoRA parameters."
        notes.append(Note("good" if safe else "unknown", f"Rank ladder: {run.ladder.sentence}.{keeps}"))
    return notes


# ---------------------------------------------------------------- evidence


def _grades(results: Sequence[Result]) -> Iterator[Block]:
    """Yield the grade of each variant, its reason, and what a better one needs; nothing without grades."""
    notes: list[Note] = []
    for result in results:
        if result.evidence is not None:
            needs = _needed(result.evidence)
            details = [f"{needs}."] if needs else []
            notes += grade_note(result.name, result.evidence.grade, f"{result.evidence.reason}.", details)
    if notes:
        yield Heading("Grades", aside=f"sample sizes assume {POWER}")
        yield Notes(notes)


def _needed(evidence: VariantEvidence) -> str:
    """Return what the next better grade needs; empty if no grade can improve."""
    needs, pooled = evidence.next_grade, evidence.pooled
    if needs is None or pooled is None:
        return ""
    wanted = amount(needs, pooled)
    if needs.grade == "A" and needs.seeds is not None:
        wanted = f"{plural(needs.seeds, 'seed')}, if mean and spread stay as observed"
    elif needs.grade == "A":
        wanted = f"{'more than 100' if pooled.next_training else f'at least {MIN_SEEDS}'} seeds"
    also = f". Other obstacles: {'; '.join(needs.obstacles)}" if needs.obstacles else ""
    return f"For grade {needs.grade}: {wanted}{also}"


def _differences(results: Sequence[Result]) -> Iterator[Block]:
    """Yield the section of Δ with its intervals; nothing if no Δ is known."""
    known = [
        (row.name, row.evidence, row.evidence.pooled)
        for row in results
        if row.evidence and row.evidence.pooled
    ]
    if not known:
        return
    margin = known[0][2].margin
    lost = f"−{exact_text(100 * margin)} points"
    several = any(pooled.over_trainings for _, _, pooled in known)
    yield Heading("Accuracy differences", aside="variant − probe, in points")
    yield table_of(
        known,
        (Column(), lambda row: Span(row[0], "name")),
        (Column("Δ", ">"), lambda row: points(row[2].delta)),
        (Column("these runs", ">"), lambda row: _interval(row[2].these_runs)),
        (
            Column("mean over trainings", ">", drop=7, shown=several),
            lambda row: _interval(row[2].over_trainings),
        ),
        (Column("next training", ">", drop=8, shown=several), lambda row: _interval(row[2].next_training)),
        (
            Column("adjusted p, next training", ">", drop=2, shown=several),
            lambda row: p_value(row[1].adjusted_p),
        ),
        (Column("discordant", ">", drop=4), lambda row: percent(row[2].discordance)),
        (
            Column("SD of Δ", ">", drop=1, shown=several),
            lambda row: MISSING if row[2].run_spread is None else f"{100 * row[2].run_spread:.2f}",
        ),
    )
    seeds = max(pooled.runs for _, _, pooled in known)
    bad = f"{100 * (1 - 0.05 ** (1 / seeds)):.0f} %"
    interval = "90 % confidence interval; each end is a one-sided 95 % bound"
    legend: list[Row] = [
        ("these runs", f"{interval}, for the adapters of these runs"),
    ]
    if several:
        legend += [
            ("mean over trainings", "the same for the mean over all trainings of this recipe"),
            (
                "next training",
                "the same for one more training, if Δ is normally distributed across trainings. Without that"
                f" assumption, {seeds} of {seeds} good trainings only rule out a failure rate above {bad}",
            ),
            (
                "adjusted p",
                "against a drop of the margin or more in the next training, under the same assumption;"
                " adjusted for all claims",
            ),
        ]
    legend.append(("discordant", "share of the examples on which exactly one of the two adapters is correct"))
    if several:
        words = "estimated SD of Δ between runs beyond sampling noise, in points (0: none detected)"
        legend.append(("SD of Δ", words))
    yield Facts(legend)
    yield dim(
        f"A lower end above {lost} rules out a drop of the margin, before adjustment for several claims. Grades use"
        " the adjusted tests."
    )


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
    pooled = result.evidence.pooled if result is not None and result.evidence is not None else None
    bounds = pooled.bounds(ladder.bound) if pooled is not None else None
    worse = step.status == "inconclusive" and bounds is not None and bounds.high < -ladder.margin
    return "worse" if worse else step.status


def _step_result(step: Step, result: Result | None, ladder: Ladder) -> Span:
    outcome = step_outcome(step, result, ladder)
    return Span(outcome if outcome == "worse" else step.words, STEP_ROLES[outcome])


def ladder_section(ladder: Ladder, results: Sequence[Result]) -> Iterator[Block]:
    """Yield the answer, the steps from the top, and the requirements of the first step that is not shown."""
    of_name = {result.name: result for result in results}
    at_looks = any(step.examples for step in ladder.steps)
    examples = (Column("examples", ">"), lambda row: f"{row[0].examples:,}" if row[0].examples else MISSING)
    yield Heading("Rank ladder", aside="truncations of the probe, tested from the largest down")
    yield Paragraph(Span(f"{ladder.sentence[0].upper()}{ladder.sentence[1:]}.", "strong"))
    yield table_of(
        [(step, of_name.get(step.name)) for step in ladder.steps],
        (Column(), lambda row: Span(row[0].name, "name")),
        (Column("result"), lambda row: _step_result(row[0], row[1], ladder)),
        (Column("policy", drop=2), lambda row: status(row[1].status) if row[1] else MISSING),
        *((examples,) if at_looks else ()),
        (Column("Δ, points", ">"), lambda row: points(row[0].delta)),
        (Column("lower bound", ">"), lambda row: points(row[0].low)),
        (
            Column(f"p, {BOUNDS[ladder.bound].removeprefix('the ')}", ">", drop=1),
            lambda row: p_value(row[0].p_value),
        ),
        (Column("saved", ">", drop=3), lambda row: percent(saving(row[1]))),
    )
    yield dim(
        f"A step is shown to be safe if its lower 95 % bound ({BOUNDS[ladder.bound]}) is above"
        f" −{exact_text(100 * ladder.margin)} points. The tests stop at the first step that is not shown; the numbers"
        " of later steps are exploratory. Adapters retrained at these ranks were not tested."
        + (
            " Examples: of each seed, when the test stopped; bounds and p hold at all looks."
            if at_looks
            else ""
        )
    )
    needs = ladder.next_step
    result = of_name.get(needs.name) if needs else None
    if needs is not None and result is not None and result.evidence is not None and result.evidence.pooled:
        wanted = amount(needs, result.evidence.pooled)
        yield Paragraph(("To show ", Span(needs.name, "name"), f": {wanted}. Sample sizes assume {POWER}."))


# ---------------------------------------------------------------- one seed


def bench_blocks(bench: Bench) -> Iterator[Block]:
    """Yield the sections of one seed."""
    data, probe = bench.data, bench.probe
    yield from _title(bench, data.task, f"seed {bench.seed}")
    if bench.smoke:
        yield Paragraph(
            Span("Smoke run: shortened to check that everything works. It is no evidence.", "warn")
        )
    if bench.status != "PASS":
        yield items(bench.reasons)
    yield Heading("Probe")
    yield Facts([*_data(bench.base_params, data.splits, data.eval_role), *_probe(probe), *_audit(bench)])
    aside = f"compared with the probe on the same {count(probe.n)} examples" if probe else ""
    yield Heading("Variants", aside=aside)
    columns = _guard_columns(
        bench.planned_guards, lambda guard, row: bench.guards[guard].row(row.same_as or row.name)
    )
    yield _table(bench.candidates, columns)
    legend = (
        ("only probe", "examples that only the probe answers correctly"),
        ("only variant", "examples that only the variant answers correctly"),
        ("Δ", "variant − probe accuracy, in points"),
        ("saved", "share of the LoRA parameters saved, without classifier heads"),
        ("KL/example", "KL divergence from the probe's outputs, in nats per example"),
    )
    yield Facts([*_ways(bench.candidates), *legend, *_guard_legend(bench.planned_guards)])
    yield from _levels(bench)
    yield from _grades(bench.candidates)
    yield from _differences(bench.variants)
    if bench.ladder is not None:
        yield from ladder_section(bench.ladder, bench.steps)
    elif bench.steps:
        yield Heading("Rank ladder", aside="truncations of the probe; tested over all seeds together")
        yield _table(bench.steps)
    yield from _controls(bench.controls, _table(bench.controls))
    yield from _reasons(bench.variants)
    yield from _policy(bench.policy, bench.notes, guarded=bool(bench.guards))
    where = bench.environment
    versions = ", ".join(f"{name} {version}" for name, version in sorted(where.versions.items()))
    quantization = f", base in {where.quantization}" if where.quantization else ""
    other = where.engine != "transformers"
    by = f"; answers by {where.engine}, KL and flips by transformers" if other else ""
    yield Heading("Environment", folded=True)
    yield Paragraph(f"{where.device}, {where.dtype}{quantization}{by}; {versions}")


def _probe(probe: Probe | None) -> list[Row]:
    """Return rank, accuracy, gate and size, and problems with the answers, if any."""
    if probe is None:
        return [("probe", "none")]
    gate = (
        f"{'passes' if probe.gate.passed else 'fails'} the {exact_percent(probe.gate.min_value)} quality gate"
    )
    if probe.gate.base_correct is not None:
        base = "the base model" if probe.gate.base == "without an adapter" else "the most frequent label"
        gate += f"; {base} has {probe.gate.base_correct:,} / {probe.n:,}"
    counts = [
        (probe.failed_extractions, "output", "without an answer (counted as wrong)"),
        (probe.cut_off, "output", "cut off (maximum length)"),
        (probe.truncated, "input", "truncated (too long)"),
    ]
    problems = "; ".join(f"{plural(number, noun)} {problem}" for number, noun, problem in counts if number)
    return [
        ("rank", str(probe.rank)),
        ("accuracy", f"{probe.correct:,} / {probe.n:,} correct ({percent(probe.score)}): {gate}"),
        *([("problems", problems)] if problems else []),
        ("LoRA parameters", count(probe.lora_params)),
        *_other_params(probe.other_params),
        ("size on disk", size(probe.bytes)),
    ]


def _audit(bench: Bench) -> list[Row]:
    """Return the audit of the probe, with the evidence before rounding first."""
    audit = bench.audit
    if audit is None:
        failed = bench.probe is not None and not bench.probe.gate.passed
        return [("audit", "none: the probe fails its quality gate" if failed else "none")]
    median, p90 = trimmed(audit.energy_rank_90_p50), trimmed(audit.energy_rank_90_p90)
    return [
        ("k@90", f"median {median}, p90 {p90} (directions with 90 % of the energy)"),
        (
            "suggested ranks",
            f"{audit.suggested_r_global_median} (median), {audit.suggested_r_global_90} (p90)",
        ),
        ("stable rank", f"mean {sig(audit.stable_rank_mean)}"),
        ("utilization", f"mean {percent(audit.utilization_mean)}"),
    ]


def _ranks(result: VariantResult) -> str:
    return number_range((result.ranks.smallest, result.ranks.largest)) if result.ranks else MISSING


def _correct(result: VariantResult) -> str:
    return f"{result.measures.correct:,}" if result.measures else MISSING


def _levels(bench: Bench) -> Iterator[Block]:
    """Yield the probe's gains and losses on the guards, compared with the base; nothing without guards."""
    if bench.guards:
        yield Heading("Guards", aside="what the probe itself gained or forgot")
        yield table_of(
            [*bench.guards.items()],
            (Column(), lambda guard: Span(guard[0], "name")),
            (Column("base model", ">"), lambda guard: level_cell(guard[1].adapters[-1])),
            (Column("probe", ">"), lambda guard: level_cell(guard[1].adapters[0])),
        )


def _table(results: Sequence[VariantResult], guards: Sequence[GuardColumn] = ()) -> Table:
    return table_of(
        results,
        (Column(), lambda row: Span(row.name, "name")),
        (Column("status"), status_of),
        (Column("grade", shown=any(letter(row) != MISSING for row in results)), letter),
        (Column("ranks", ">", drop=4), _ranks),
        (Column("correct", ">", drop=5), _correct),
        (Column("only probe", ">", drop=3), lambda row: f"{row.pairs.n10:,}" if row.pairs else MISSING),
        (Column("only variant", ">", drop=2), lambda row: f"{row.pairs.n01:,}" if row.pairs else MISSING),
        (Column("Δ, points", ">"), lambda row: points(row.delta)),
        (
            Column("95 % interval", ">", drop=6, shown=any(row.pairs for row in results)),
            lambda row: _interval(row.pairs),
        ),
        *guards,
        (Column("saved", ">"), lambda row: percent(row.reduction)),
        (
            # KL is never below 0, but rounding can make it so
            Column("KL/example", ">", drop=1, shown=any(row.divergence for row in results)),
            lambda row: sig(max(0.0, row.divergence.kl_per_example)) if row.divergence else MISSING,
        ),
    )


# ---------------------------------------------------------------- several seeds


def aggregate_blocks(report: BenchAggregate) -> Iterator[Block]:
    """Yield the sections of all seeds."""
    number = len(report.planned_seeds)
    yield from _title(
        report, report.task, f"{noun(number, 'seed')} {', '.join(map(str, report.planned_seeds))}"
    )
    if report.status != "PASS":
        yield items(report.reasons)
    yield Heading("Probe")
    data = _data(report.base_params, report.splits, report.eval_role)
    yield Facts([*data, *_probes(report), *_noise(report.noise)])
    candidates = report.candidates
    yield Heading("Variants", aside="compared with the probe of the same seed on the same examples")
    yield _summaries(candidates, _guard_columns(report.guards, lambda guard, row: row.guards.get(guard)))
    legend = (
        ("max rank", "largest rank of a module (range over seeds)"),
        ("worst Δ", "variant − probe accuracy, in points, on the worst seed"),
        ("saved", "share of the LoRA parameters saved, without classifier heads"),
        (
            "accuracy",
            "mean over the seeds with a result; a variant that can no longer pass is not trained on further seeds",
        ),
    )
    yield Facts([*_ways(candidates), *legend, *_guard_legend(report.guards)])
    yield from _grades(candidates)
    yield from _differences(report.variants)
    if report.ladder:
        yield from ladder_section(report.ladder, report.steps)
    yield from _controls(report.controls, _summaries(report.controls))
    yield from _reasons([variant for variant in report.variants if not variant.is_step])
    yield Heading("Seeds", aside="probe: correct answers; others: Δ in points", folded=True)
    yield _seeds(report)
    yield from _policy(report.policy, report.notes, guarded=bool(report.guards))


def _probes(report: BenchAggregate) -> list[Row]:
    spread = report.probe
    if spread is None:
        return [("probe", "none on any seed")]
    mean = "mean" if spread.sd is None else "mean ± SD"
    over = f"{mean} over {plural(spread.seeds, 'seed')}; {100 * spread.low:.1f} to {100 * spread.high:.1f} %"
    return [
        *([("rank", str(report.probe_rank))] if report.probe_rank is not None else []),
        ("accuracy", f"{mean_percent(spread)} ({over})"),
        *_other_params(max((row.other_params or 0 for row in report.seeds), default=0)),
    ]


def _noise(noise: Noise | None) -> list[Row]:
    """Return the differences between adapters of equal size."""
    floors = [] if noise is None else [
        ("noise between seeds", noise.probes, "two probes of different seeds"),
        ("rounding noise", noise.rewrite_control, "the probe and its rewrite control"),
    ]  # fmt: skip
    return [
        (
            label,
            f"{who} disagree on {percent(floor.discordance)} of the examples; their accuracies differ by up to"
            f" {points(floor.largest_delta).removeprefix('+')} points"
            if floor.discordance
            else f"none: {who} agree on every example",
        )
        for label, floor, who in floors
        if floor is not None
    ]


def _summaries(variants: Sequence[VariantSummary], guards: Sequence[GuardColumn] = ()) -> Table:
    def accuracy(variant: VariantSummary) -> str:
        mean = variant.accuracy
        if mean is None:
            return MISSING
        some = f" ({mean.seeds} of {variant.planned} seeds)" if mean.seeds < variant.planned else ""
        return f"{100 * mean.mean:.1f} %{some}"

    def ranks(variant: VariantSummary) -> str:
        return number_range(row.largest_rank for row in variant.seeds if row.largest_rank is not None)

    return table_of(
        variants,
        (Column(), lambda row: Span(row.name, "name")),
        (Column("status"), status_of),
        (Column("grade", shown=any(letter(row) != MISSING for row in variants)), letter),
        (Column("max rank", ">", drop=2), ranks),
        (
            Column("seeds passed", ">", drop=3),
            lambda row: MISSING if row.status == "SKIPPED" else f"{row.passing} of {row.planned}",
        ),
        (Column("worst Δ, points", ">"), lambda row: counted_points(row.worst_delta, row.worst_delta_exact)),
        *guards,
        (Column("saved", ">", drop=4), lambda row: percent(row.mean_reduction)),
        (Column("accuracy", ">", drop=1), accuracy),
    )


def _seeds(report: BenchAggregate) -> Table:
    """Return one column for each planned seed; a narrow terminal leaves out the last ones first."""
    most = len(report.seeds)
    columns = [Column(str(row.seed), ">", drop=most - place) for place, row in enumerate(report.seeds)]
    probe = [
        f"{row.correct:,} / {row.n:,}" if row.correct is not None and row.n else status(row.status)
        for row in report.seeds
    ]
    rows: list[Sequence[Inline]] = [("probe", *probe)]
    for variant in report.variants:
        cells = (points(row.delta) if row.delta is not None else status(row.status) for row in variant.seeds)
        rows.append((Span(variant.name, "name"), *cells))
    return Table([Column("seed"), *columns], rows)
