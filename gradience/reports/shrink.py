"""`plan.json`, what is decided before anything is evaluated, and `shrink.json`, the smallest adapter shown to hold."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import Role, Share
from gradience.reports.evaluation import EvaluatedAdapter, EvaluationConditions, ShownMargin
from gradience.statistics.table import PairedTable
from gradience.words import points

TestedStatus = Literal["shown", "inconclusive", "worse", "not evaluated"]
CandidateStatus = Literal[TestedStatus, "skipped", "not tested"]


def candidate_words(kind: str, rank: int) -> str:
    """Return what a candidate is called in a sentence."""
    return f"rank {rank}" if kind == "truncated" else f"{kind} rank {rank}"


class PlannedCandidate(Part):
    """One smaller adapter that may be made."""

    name: str
    kind: str
    """How it is made. `truncated`: the leading directions of each module. `calibrated`: what a calibration says matters
    most to the output. `distilled`: the smallest of those, trained a little to answer as the adapter does."""
    rank: int
    """Of every module that has more; the others keep theirs. With a calibration the rank whose LoRA parameters are the
    budget of the candidate."""
    lora_params: int
    params_saved: Float12
    """Share of the adapter's LoRA parameters."""
    kept_energy: Float12
    """Σσ² kept / Σσ², over all modules."""
    predicted_kl: Float12 | None = None
    """Of the calibration, in nats per scored token; null without one, and for a distilled candidate."""

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return candidate_words(self.kind, self.rank)


class PlannedDistillation(Part):
    """How the distilled candidate is trained, on which prompts."""

    prompts: str
    prompts_sha256: str
    steps: int
    """At most."""
    lr: Float12
    batch_size: int
    seed: int


class DevRows(Part):
    """Rows that are set aside to choose where the sequence starts; they decide nothing else."""

    source: Literal["split", "task"]
    """`task`: the task's own dev examples. `split`: taken from the rows by their content."""
    examples: int
    examples_sha256: str


class ShrinkPlan(Artifact):
    """`plan.json`: what is decided before anything is evaluated."""

    repair: ClassVar[str] = "give another --output: a plan that was edited is none"

    schema_: Literal["gradience.shrink_plan/2"] = Field(default="gradience.shrink_plan/2", alias="schema")
    adapter: str
    adapter_sha256: str
    """Of its weights file."""
    adapter_config_sha256: str
    rank: int
    """The largest of its modules."""
    lora_params: int
    base: str
    task: str
    role: Role | None
    """Which of the task's examples; null for all rows of a file."""
    examples: int
    """Rows that the candidates are tested on."""
    examples_sha256: str
    dev: DevRows | None
    """Null up to 2,000 rows, and for up to four candidates."""
    compares: Literal["correct", "nll"] = "correct"
    """`correct`: how many examples are. `nll`: how likely given responses are, where none is correct or not."""
    margin: Share
    """The loss that must be excluded: a share of the examples; of likelihoods, nats per token."""
    level: Share
    """One-sided error of each test. The sequence stops at the first candidate that is not shown, so the chance of any
    wrong claim is that of one test."""
    test: str
    """What is tested, in words."""
    suggested_rank: int | None
    """The audit's p90 suggestion; null where the audit makes none."""
    given: bool
    """Whether the candidates were given; else they are halvings of the suggested rank."""
    candidates: tuple[PlannedCandidate, ...]
    """In the order in which they are tested: from the largest down, the distilled one before the smallest."""
    calibration_sha256: str | None = None
    """Of the calibration that all candidates are made with; null for truncations."""
    distillation: PlannedDistillation | None = None
    """Null where no candidate is distilled."""
    changes: tuple[str, ...] = ()
    """What was another in an earlier plan of this folder, after answers were there."""

    def drop(self, size: Fraction | float) -> str:
        """Return the size of a drop in words."""
        if self.compares == "nll":
            return f"{float(size):.2g} nats per token"
        return f"{points(size).removeprefix('+')} points"


class MeanInterval(Part):
    """A mean over the rows."""

    mean: Float12
    low: Float12 | None
    """Lower end of Student's 95 % interval; null for a single row."""
    high: Float12 | None


class OutputDistance(Part):
    """How far the outputs are from the adapter's own, row by row; it says something where few answers change."""

    nll: MeanInterval | None
    """Negative log-likelihood of the gold label or response, in nats: this one's − the adapter's. Above 0 is worse.
    Null where the engine does not measure it."""
    kl: MeanInterval | None
    """KL(the adapter ‖ this one), in nats: of the labels, or summed over the tokens of the gold response."""
    kl_above_floor: MeanInterval | None
    """KL − the rewrite control's, paired row by row; null for the control itself, and without one."""


class RewriteControl(Part):
    """The adapter itself in other factors, in its own storage types: what changes is the noise of writing it."""

    result: EvaluatedAdapter | None
    """Null where it could not be written."""
    distance: OutputDistance | None
    reason: str = ""
    """Why there is none."""


class ShrinkCandidate(Part):
    """A candidate of the plan, and what came of it."""

    name: str
    kind: str
    rank: int
    lora_params: int
    params_saved: Float12
    predicted_kl: Float12 | None = None
    """As planned."""
    status: CandidateStatus
    """`skipped`: the sequence started below it. `not tested`: it had stopped above it."""
    dev: PairedTable | None = None
    """On the dev rows; null where it was not evaluated on them."""
    result: EvaluatedAdapter | None = None
    """On the test rows, `adjusted_p` being the largest p-value down to this candidate. Null where it was not tested."""
    distance: OutputDistance | None = None
    needs: str = ""
    """Of one that is not shown: which margin these rows show of it, and how many rows that of the plan would take."""

    @property
    def words(self) -> str:
        """What it is called in a sentence."""
        return candidate_words(self.kind, self.rank)


class ShrinkReport(Report):
    """`shrink.json`: the smallest adapter that is shown to hold.

    >>> report = ShrinkReport.read("shrink.json")
    >>> report.smallest, [(candidate.name, candidate.status) for candidate in report.candidates]
    ('rank1', [('rank4', 'shown'), ('rank2', 'shown'), ('rank1', 'shown')])
    """

    row_field: ClassVar[str] = "candidates"
    repair: ClassVar[str] = "shrink again: gradience shrink … --output DIR"

    schema_: Literal["gradience.shrink/2"] = Field(default="gradience.shrink/2", alias="schema")
    base: str
    task: str
    source: dict[str, str]
    """Where the examples come from."""
    plan: ShrinkPlan
    plan_sha256: str
    """Of plan.json."""
    conditions: EvaluationConditions
    reference: EvaluatedAdapter
    """The adapter itself."""
    control: RewriteControl
    start: str
    """The candidate that was tested first."""
    candidates: tuple[ShrinkCandidate, ...]
    smallest: str | None
    """The last candidate that is shown, which lies in `adapter/`; null where none is."""
    smallest_sha256: str | None
    """Of its weights file."""
    sentence: str
    """The answer in one sentence."""
    notes: tuple[str, ...]
    """What a reader must know before the figures."""
    run: RunInfo


class ShrinkForecast(Report):
    """What a search would do, cost and be able to show; no model is loaded."""

    row_field: ClassVar[str] = "candidates"

    schema_: Literal["gradience.shrink_forecast/3"] = Field(
        default="gradience.shrink_forecast/3", alias="schema"
    )
    plan: ShrinkPlan
    candidates: tuple[PlannedCandidate, ...]
    margins: tuple[ShownMargin, ...]
    weights_bytes: int | None
    """The base in its precision; null where the shape of the model is not known here."""
    adapter_bytes: int
    """The adapter and the largest candidate in float32: no more are loaded at once."""
    batch_bytes: int | None
    process_bytes: int | None
    """Python, PyTorch and their libraries, as measured in the process that made the forecast; 0 on a GPU."""
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]
