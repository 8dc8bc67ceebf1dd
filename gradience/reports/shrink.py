"""`plan.json`, what is decided before anything is evaluated, and `shrink.json`, the smallest adapter shown to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import groupby
from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Mark,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    items,
)
from gradience.reports.base.blocks import Role as Look
from gradience.reports.base.numbers import MISSING, count, percent, probability, sig
from gradience.reports.base.report import PlotOf, Plots, Report, compared_plots
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import Role, Share
from gradience.reports.evaluation import (
    ONE_TRAINING,
    EvaluatedAdapter,
    EvaluationConditions,
    ShownMargin,
    change_cells,
    correct_cell,
    device_of,
    margin_blocks,
    memory_facts,
)
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
    plots: ClassVar[Plots] = compared_plots("Which is the smallest", "Which is the smallest")

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

    def blocks(self) -> Document:
        """Return the sections, in the order of the questions that a reader has."""
        return [block for section in SECTIONS for block in section(self)]

    def page_heading(self, heading: Heading) -> Heading:
        """Return which adapter is made smaller, on which task."""
        plan = self.plan
        return Heading(("Shrink of ", Span(plan.adapter, "name"), " on ", Span(plan.task, "name")))

    def summary(self) -> list[Note]:
        """Return the answer, and what it is about."""
        return [_answer(self), *([Note("info", ONE_TRAINING)] if self.smallest is not None else [])]


class ShrinkForecast(Report):
    """What a search would do, cost and be able to show; no model is loaded."""

    row_field: ClassVar[str] = "candidates"
    plots: ClassVar[Plots] = {
        "margins": PlotOf("sizes:margins_plot", ("What can these",)),
        "memory": PlotOf("sizes:memory_plot"),
    }

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

    def blocks(self) -> Document:
        """Return the plan, what the rows can show, and what the estimates rest on."""
        memory = memory_facts(self.weights_bytes, self.adapter_bytes, self.batch_bytes, self.process_bytes)
        heading = Heading("Dry run: no model was loaded", level=1)
        blocks: list[Block] = [heading, Facts([*_plan_facts(self.plan), *memory])]
        blocks += [Notes([Note("warning", note) for note in self.notes])] if self.notes else []
        predicts = self.plan.calibration_sha256 is not None
        columns = [Column("candidate"), Column("saved", ">"), Column("energy kept", ">")]
        columns += [Column("predicted KL", ">")] if predicts else []
        rows: list[Sequence[Inline]] = [
            (
                Span(candidate.name, "name"),
                percent(candidate.params_saved),
                percent(candidate.kept_energy),
                *([_predicted(candidate.predicted_kl)] if predicts else []),
            )
            for candidate in self.candidates
        ]
        blocks += [Heading("What is tested, from the largest down?"), Table(columns, rows)]
        blocks += margin_blocks(self.plan.margin, self.margins) if self.margins else []
        return [*blocks, Heading("Assumptions"), items(self.assumptions)] if self.assumptions else blocks

    def page_heading(self, heading: Heading) -> Heading:
        """Return which adapter is to be made smaller, on which task."""
        plan = self.plan
        text = ("Plan of a shrink: ", Span(plan.adapter, "name"), " on ", Span(plan.task, "name"))
        return Heading(text, aside=heading.text)


LOOKS: dict[CandidateStatus, tuple[Mark, Look]] = {
    "shown": ("good", "good"),
    "inconclusive": ("unknown", "warn"),
    "worse": ("error", "bad"),
    "not evaluated": ("error", "bad"),
    "skipped": ("unknown", "dim"),
    "not tested": ("unknown", "dim"),
}


def title_blocks(report: ShrinkReport) -> list[Block]:
    """Return adapter, base, rows, plan, and what a reader must know first."""
    conditions, plan = report.conditions, report.plan
    packed = f", {conditions.quantization}" if conditions.quantization else ""
    facts = [*_plan_facts(plan, f"{conditions.dtype}{packed}"), ("device", device_of(conditions))]
    warnings = [*(f"not fixed before the answers: {change}" for change in plan.changes), *report.notes]
    notes = [Notes([Note("warning", warning) for warning in warnings])] if warnings else []
    return [Heading("Shrink", level=1), Facts(facts), *notes]


def _plan_facts(plan: ShrinkPlan, dtype: str = "") -> list[tuple[str, Inline]]:
    which = {None: " (all rows)", "confirm": " (test)"}.get(plan.role, f" ({plan.role})")
    why = "as given" if plan.given else f"halved from {plan.suggested_rank}, the audit's p90 suggestion"
    largest = Span(f"  rank {plan.rank}, {count(plan.lora_params)} LoRA parameters", "dim")
    facts: list[tuple[str, Inline]] = [
        ("adapter", (Span(plan.adapter, "name"), largest)),
        ("base", (Span(plan.base, "name"), Span(f"  {dtype}", "dim"))),
        ("examples", (f"{count(plan.examples)} of ", Span(plan.task, "name"), which)),
    ]
    if plan.dev is not None:
        whose = "the task's own" if plan.dev.source == "task" else "set aside"
        text = f"{count(plan.dev.examples)} dev examples ({whose}) choose where the sequence starts"
        facts.append(("start", text))
    groups = []  # in the order of the tests; a kind stands once before its ranks
    for kind, candidates in groupby(plan.candidates, lambda candidate: candidate.kind):
        first, *others = [candidate.rank for candidate in candidates]
        groups.append(", ".join([candidate_words(kind, first), *map(str, others)]))
    facts.append(("candidates", (", ".join(groups), Span(f"  {why}", "dim"))))
    if plan.calibration_sha256 is not None:
        facts.append(("calibration", f"sha256 {plan.calibration_sha256[:12]}…"))
    if plan.distillation is not None:
        steps = f"up to {count(plan.distillation.steps)} steps on "
        facts.append(("distilled", (steps, Span(plan.distillation.prompts, "name"))))
    return [*facts, ("margin", plan.drop(plan.margin))]


def candidate_blocks(report: ShrinkReport) -> list[Block]:
    """Return one row for each candidate, and the answer."""
    reference, by_count = report.reference, report.plan.compares == "correct"
    measures = [Column("NLL per token", ">"), Column("ΔNLL", ">")]
    legend = "NLL beyond the reference's, in nats per token, with Student's 95 % interval over examples"
    if by_count:
        pairs = (Column("only ref", ">", drop=1), Column("only it", ">", drop=1))
        measures = [Column("correct", ">"), *pairs, Column("Δ", ">")]
        legend = "correct answers beyond the reference's, in points, with Tango's 95 % interval"
    columns = [
        Column(),
        Column("rank", ">", drop=3),
        Column("saved", ">"),
        *measures,
        Column("95 % interval", ">", drop=2),
        Column(),
    ]
    name = Span(reference.name, "name")
    rows: list[Sequence[Inline]] = [
        (name, str(report.plan.rank), "", correct_cell(reference) if by_count else _nll(reference))
    ]
    for candidate in report.candidates:
        figures = _counts(candidate.result) if by_count else _likelihoods(candidate.result)
        status = Span(candidate.status, LOOKS[candidate.status][1])
        rows.append(
            (
                Span(candidate.name, "name"),
                str(candidate.rank),
                percent(candidate.params_saved),
                *figures,
                status,
            )
        )
    notes = [_answer(report)]
    last = _last_tested(report)
    if report.smallest is not None and last.status != "shown" and last.result is not None:
        # what the candidate below the smallest would have needed
        needs = last.needs if last.status == "inconclusive" else f"{last.words}: {last.result.reason}"
        notes.append(Note(LOOKS[last.status][0], needs))
    return [
        Heading(("Which is the smallest that is as good as ", name, "?")),
        Table(columns, rows),
        Notes(notes),
        Facts([("Δ" if by_count else "ΔNLL", legend)]),
    ]


def _counts(row: EvaluatedAdapter | None) -> Sequence[str]:
    if row is None or row.pairs is None:
        return (MISSING, "", "", "", "")
    pairs = row.pairs
    interval = f"{points(pairs.low)} … {points(pairs.high)}"
    return (correct_cell(row), count(pairs.n10), count(pairs.n01), points(pairs.delta), interval)


def _likelihoods(row: EvaluatedAdapter | None) -> Sequence[str]:
    if row is None or row.likelihood is None:
        return (MISSING, "", "")
    likelihood = row.likelihood
    return (_nll(row), _signed(likelihood.delta), _interval(likelihood.low, likelihood.high))


def _nll(row: EvaluatedAdapter) -> str:
    return MISSING if row.likelihood is None else sig(row.likelihood.nll)


def _last_tested(report: ShrinkReport) -> ShrinkCandidate:
    return next(candidate for candidate in reversed(report.candidates) if candidate.result is not None)


def _answer(report: ShrinkReport) -> Note:
    """The sentence, with the evidence that decides it."""
    shown = next((candidate for candidate in report.candidates if candidate.name == report.smallest), None)
    if shown is None:
        return Note(LOOKS[_last_tested(report).status][0], report.sentence)
    details: list[Inline] = []
    if shown.result is not None and shown.result.adjusted_p is not None:
        p = probability(shown.result.adjusted_p)
        details.append(f"grade B: {p} for a loss of the margin (the largest of the candidates down to it)")
        details.append(f"written to adapter/ (sha256 {(report.smallest_sha256 or '')[:12]}…)")
    return Note("good", report.sentence, details)


def distance_blocks(report: ShrinkReport) -> list[Block]:
    """Return how far the outputs are from the adapter's, against what writing it anew changes."""
    control = report.control
    measured = [(candidate.name, candidate.distance, candidate.result) for candidate in report.candidates]
    measured.append(("rewrite control", control.distance, control.result))
    rows = [
        (name, distance, None if result is None else result.change)
        for name, distance, result in measured
        if distance is not None and (distance.nll is not None or distance.kl is not None)
    ]
    blocks: list[Block] = [Heading("How much do the outputs change?")]
    if control.reason:
        blocks.append(Notes([Note("warning", f"no rewrite control: {control.reason}")]))
    if not rows:
        return blocks if control.reason else []
    predicted = {
        candidate.name: candidate.predicted_kl
        for candidate in report.candidates
        if candidate.predicted_kl is not None
    }
    tokens = bool(predicted) or any(change is not None and change.has_tokens for _, _, change in rows)
    columns = [
        Column(),
        Column("NLL", ">"),
        Column("95 % interval", ">", drop=1),
        Column("KL", ">"),
        *([Column("KL/token", ">")] if tokens else []),
        *([Column("predicted", ">")] if predicted else []),
        Column("above rewrite", ">"),
        Column("95 % interval", ">", drop=2),
        Column("flips", ">", drop=3),
    ]
    cells: list[Sequence[Inline]] = []
    for name, distance, change in rows:
        _, *per_token, flips = change_cells(change, tokens)
        kl = MISSING if distance.kl is None else sig(distance.kl.mean, 2)
        prediction = [_predicted(predicted.get(name))] if predicted else []
        above = _mean(distance.kl_above_floor)
        cells.append((Span(name, "name"), *_mean(distance.nll), kl, *per_token, *prediction, *above, flips))
    legend: list[tuple[str, Inline]] = [
        ("NLL", "of the gold labels or responses, in nats an example: what it gains; above 0 is worse"),
        ("KL", "divergence of the outputs from the adapter's own, in nats per example: 0 is no change"),
        ("above rewrite", "KL beyond the rewrite control's: the same update in other factors, rounded anew"),
        ("flips", "examples whose output changes, whether correct or not"),
    ]
    if tokens:
        legend.append(("KL/token", "the same per scored token, as a calibration predicts it"))
    if predicted:
        legend.append(("predicted", "KL per scored token that the calibration predicts, in nats"))
    return [*blocks, Table(columns, cells), Facts(legend)]


def _mean(mean: MeanInterval | None) -> tuple[str, str]:
    """The cells of a mean and of its interval."""
    return (MISSING, "") if mean is None else (_signed(mean.mean), _interval(mean.low, mean.high))


def _signed(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{sig(abs(value), 2)}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None else f"{_signed(low)} … {_signed(high)}"


def _predicted(kl: float | None) -> str:
    return MISSING if kl is None else sig(kl, 2)


def caveat_blocks(report: ShrinkReport) -> list[Block]:
    """Return what a search never shows."""
    fixed = (
        "Candidates, rows and margin were written to plan.json before anything was evaluated"
        if not report.plan.changes
        else "The plan was changed after answers were there, so the 5 % of a wrong claim do not hold"
    )
    return [
        Heading("What does this not show?"),
        Paragraph(
            "Whether another training run would come out the same: one adapter gives at most grade B. Nor anything"
            f" about candidates that were not tested, or rows unlike these. {fixed}."
        ),
    ]


SECTIONS: tuple[Callable[[ShrinkReport], list[Block]], ...] = (
    title_blocks,
    candidate_blocks,
    distance_blocks,
    caveat_blocks,
)
