"""Reports of `gradience shrink`: the plan (`plan.json`), the result (`shrink.json`) and the dry run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import groupby
from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.files.shared_names import PlainName
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
    table_of,
    warned,
)
from gradience.reports.base.blocks import Role as Look
from gradience.reports.base.numbers import MISSING, count, percent, probability, sig
from gradience.reports.base.prediction import PredictedDrop, drop_cell
from gradience.reports.base.report import COMPARED_PLOTS, Plots, Report
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import Role, Share
from gradience.reports.evaluation import (
    ANY_SCORER,
    LOOK_LEGEND,
    ONE_TRAINING,
    Compares,
    ComparisonForecast,
    EvaluatedAdapter,
    EvaluationConditions,
    EvaluationReport,
    agreement_legend,
    device_of,
    flips_cell,
    interval_cell,
    kl_per_token,
    level_or_delta_cell,
    looks_fact,
    margin_blocks,
    margin_text,
    outcome_fields,
    repeated_tests,
)
from gradience.reports.evaluation_sets import PLANNED, PlannedSet, set_words, unit_words

TestedStatus = Literal["shown", "inconclusive", "worse", "not evaluated"]
CandidateStatus = Literal[TestedStatus, "not tested"]


def candidate_words(kind: str, rank: int) -> str:
    """Return the name of a candidate in a sentence."""
    return f"rank {rank}" if kind == "truncated" else f"{kind} rank {rank}"


class PlannedCandidate(Part):
    """One smaller adapter in the plan."""

    name: str
    kind: str
    """Method. `truncated`: keep the leading singular directions of each module. `calibrated`: keep the components that
    a calibration ranks highest. `distilled`: the smallest of those candidates, trained briefly to match the outputs of
    the reference adapter."""
    rank: int
    """Target rank; modules that are already smaller keep their rank. With a calibration, the rank whose LoRA parameter
    count is the budget of the candidate."""
    lora_params: int
    params_saved: Float12
    """Share of the reference adapter's LoRA parameters that is saved."""
    kept_energy: Float12
    """Energy kept: Σσ² kept / Σσ², over all modules."""
    predicted_kl_per_token: Float12 | None = None
    """KL predicted by the calibration, in nats per scored token; null without one and for a distilled candidate."""
    predicted_drop: PredictedDrop | None = Field(default=None, exclude_if=lambda value: value is None)
    """Predicted accuracy drop; absent without a KL, and outside what was tested."""

    @property
    def words(self) -> str:
        """Name of the candidate in a sentence."""
        return candidate_words(self.kind, self.rank)


def recommended(candidates: Iterable[PlannedCandidate], margin: float) -> PlannedCandidate | None:
    """Return the smallest candidate whose predicted drop is at most the margin, in points, at its 90 % upper end."""
    within = [each for each in candidates if each.predicted_drop and each.predicted_drop.high <= margin]
    return min(within, key=lambda each: each.lora_params, default=None)


class PlannedDistillation(Part):
    """Training settings and prompts of the distilled candidate."""

    prompts: str
    prompts_sha256: str
    steps: int
    """Maximum number of training steps."""
    lr: Float12
    batch_size: int
    seed: int


class ShrinkPlan(Artifact):
    """`plan.json`: the plan, fixed before the evaluation."""

    repair: ClassVar[str] = "give another --output (an edited plan is not valid)"

    schema_: Literal["gradience.shrink_plan/2"] = Field(default="gradience.shrink_plan/2", alias="schema")
    adapter: str
    adapter_sha256: str
    """sha256 of the weights file."""
    adapter_config_sha256: str
    rank: int
    """Largest rank among the modules."""
    lora_params: int
    base: str
    task: str
    role: Role | None
    """Split of the task; null for all rows of a file."""
    examples: int
    """Number of test examples."""
    examples_sha256: str
    looks: tuple[int, ...] = ()
    """Numbers of test examples at the planned looks; empty if all examples are answered at once."""
    groups: tuple[int, ...] | None = Field(default=None, exclude_if=lambda value: value is None)
    """Group of each example, numbered in their order; absent if each example is its own."""
    dev: None = None
    """Always null: no rows are held out to choose a candidate."""
    compares: Compares = "correct"
    """`correct`: accuracy. `nll`: the likelihood of given responses, for tasks without right and wrong answers.
    `agreement`: equality with the reference's outputs, for prompts without answers."""
    margin: Share
    """Largest acceptable drop: a share of the examples, or nats per token for `nll`."""
    level: Share
    """One-sided error rate of each test. The sequence stops at the first candidate that is not shown, so the chance of
    any false claim is that of a single test."""
    test: str
    """Description of the test."""
    suggested_rank: int | None
    """The audit's p90 suggestion, or with a calibration the largest power of two below the rank; null without both."""
    given: bool
    """True if the ranks were given; otherwise they are halvings of the suggested rank, with a calibration from one size
    above the smallest that is predicted to stay within the margin."""
    candidates: tuple[PlannedCandidate, ...]
    """Candidates in test order: from the largest down, the distilled one before the one of its size."""
    calibration_sha256: str | None = None
    """sha256 of the calibration behind all candidates; null for truncations."""
    distillation: PlannedDistillation | None = None
    """Null if no candidate is distilled."""
    guards: tuple[PlannedSet, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Further data sets on which a candidate must hold, in test order; absent without any."""
    changes: tuple[str, ...] = ()
    """Changes to the plan of this folder that were made after the first answers."""

    def on(self, planned: PlannedSet) -> ShrinkPlan:
        """Return the same plan with a guard in the place of the task."""
        values = {name: getattr(planned, name) for name in PLANNED}
        return self.model_copy(update={**values, "guards": ()})

    @property
    def recommended(self) -> PlannedCandidate | None:
        """Return the candidate above which the tests start; None if the predicted drops did not choose the start."""
        by_accuracy = self.compares == "correct" and not self.given and not self.guards
        return recommended(self.candidates, 100 * float(self.margin)) if by_accuracy else None

    def drop(self, size: Fraction | float) -> str:
        """Return the size of a drop with its unit."""
        if self.compares == "agreement":
            return f"{float(100 * size):.2g} %"
        return margin_text(size, nll=self.compares == "nll")


class MeanInterval(Part):
    """Mean over the examples."""

    mean: Float12
    low: Float12 | None
    """Lower end of Student's 95 % interval; null for a single example."""
    high: Float12 | None


class OutputDistance(Part):
    """Distance of the outputs from the reference's, example by example; informative even if few answers change."""

    nll: MeanInterval | None
    """Increase in the negative log-likelihood of the gold label or response, in nats: candidate − reference. Positive
    is worse. Null if the engine does not measure it."""
    kl_per_example: MeanInterval | None
    """KL(reference ‖ candidate), in nats: over the labels, or summed over the tokens of the gold response."""
    kl_per_example_above_floor: MeanInterval | None
    """KL minus that of the rewrite control, paired by example; null for the control itself and without a control."""


class RewriteControl(Part):
    """The same update written in other factors and the same storage types: measures the rounding-noise floor."""

    result: EvaluatedAdapter | None
    """Null if it could not be written."""
    distance: OutputDistance | None
    reason: str = ""
    """Reason for a missing control."""


class ShrinkCandidate(Part):
    """A candidate of the plan and its outcome."""

    name: str
    kind: str
    rank: int
    lora_params: int
    params_saved: Float12
    predicted_kl_per_token: Float12 | None = None
    """KL predicted in the plan."""
    status: CandidateStatus
    """`not tested`: the tests stopped at a larger one."""
    dev: None = None
    """Always null: no rows are held out to choose a candidate."""
    result: EvaluatedAdapter | None = None
    """Result on the test rows; `adjusted_p` is the largest p-value down to this candidate. Null if not tested."""
    distance: OutputDistance | None = None
    needs: str = ""
    """For an inconclusive candidate: the drop that is not ruled out, and the examples needed for the margin."""

    @property
    def words(self) -> str:
        """Name of the candidate in a sentence."""
        return candidate_words(self.kind, self.rank)


class GuardOutcome(Part):
    """Results on a guard."""

    name: PlainName
    """Name of the guard; its records are in `guards/NAME/records/`."""
    source: dict[str, str]
    """Source of the examples."""
    reference: EvaluatedAdapter
    results: tuple[EvaluatedAdapter, ...]
    """Candidates that were shown on the sets before, from the largest down to the first that is not shown here."""

    def row(self, candidate: str) -> EvaluatedAdapter | None:
        """Return the result of a candidate; None if it was not tested here."""
        return next((row for row in self.results if row.name == candidate), None)


class ShrinkReport(Report):
    """`shrink.json`: the smallest candidate shown to stay within the margin.

    >>> report = ShrinkReport.read("shrink.json")
    >>> report.smallest, [(candidate.name, candidate.status) for candidate in report.candidates]
    ('rank1', [('rank4', 'shown'), ('rank2', 'shown'), ('rank1', 'shown')])
    """

    row_field: ClassVar[str] = "candidates"
    repair: ClassVar[str] = "repeat the gradience shrink command"
    plots: ClassVar[Plots] = COMPARED_PLOTS

    schema_: Literal["gradience.shrink/2"] = Field(default="gradience.shrink/2", alias="schema")
    base: str
    task: str
    source: dict[str, str]
    """Source of the examples."""
    plan: ShrinkPlan
    plan_sha256: str
    """sha256 of plan.json."""
    conditions: EvaluationConditions
    reference: EvaluatedAdapter
    """The reference adapter."""
    control: RewriteControl
    start: str
    """The candidate that was tested first."""
    candidates: tuple[ShrinkCandidate, ...]
    guards: tuple[GuardOutcome, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Results on the guards, in the order of the plan; absent without any, and if no candidate was shown before."""
    smallest: str | None
    """The smallest candidate that is shown on every data set, copied to `adapter/`; null if none is."""
    smallest_sha256: str | None
    """sha256 of its weights file."""
    sentence: str
    """The result in one sentence."""
    notes: tuple[str, ...]
    """Warnings shown above the results."""
    tests: int | None = Field(default=None, exclude_if=lambda value: value is None)
    """Different tests of this reference on these rows in the ledger beside the folder, this one included; absent if
    none was counted."""
    run: RunInfo

    def blocks(self) -> Document:
        """Return the sections of the report."""
        return [block for section in SECTIONS for block in section(self)]

    def page_heading(self, heading: Heading) -> Heading:
        """Return the title: adapter and task."""
        plan = self.plan
        return Heading(("Shrink of ", Span(plan.adapter, "name"), " on ", Span(plan.task, "name")))

    def summary(self) -> list[Note]:
        """Return the result, and the limit of its scope."""
        return [_answer(self), *([Note("info", ONE_TRAINING)] if self.smallest is not None else [])]


class ShrinkForecast(ComparisonForecast):
    """Dry run of a shrink: candidates, memory, and the smallest margin that can be shown. No model is loaded."""

    row_field: ClassVar[str] = "candidates"

    schema_: Literal["gradience.shrink_forecast/4"] = Field(
        default="gradience.shrink_forecast/4", alias="schema"
    )
    plan: ShrinkPlan
    candidates: tuple[PlannedCandidate, ...]

    def blocks(self) -> Document:
        """Return the plan, the smallest margins, and the assumptions."""
        table = table_of(
            self.candidates,
            (Column("candidate"), lambda row: Span(row.name, "name")),
            (Column("saved", ">"), lambda row: percent(row.params_saved)),
            (Column("error", ">"), lambda row: percent(math.sqrt(max(0.0, 1 - row.kept_energy)))),
            (
                Column("predicted KL/token", ">", shown=self.plan.calibration_sha256 is not None),
                lambda row: sig(row.predicted_kl_per_token, 2),
            ),
            (
                Column("predicted drop", ">", shown=any(row.predicted_drop for row in self.candidates)),
                lambda row: drop_cell(row.predicted_drop),
            ),
        )
        heading = Heading("Candidates, tested from the largest down")
        margins = margin_blocks(self.plan.margin, self.margins)
        return self.document(_plan_facts(self.plan), [heading, table, *margins])

    def page_heading(self, heading: Heading) -> Heading:
        """Return the title: adapter and task."""
        plan = self.plan
        text = ("Shrink plan: ", Span(plan.adapter, "name"), " on ", Span(plan.task, "name"))
        return Heading(text, aside=heading.text)


def tested_by(report: EvaluationReport | ShrinkReport) -> EvaluationReport | ShrinkPlan:
    """Return what says which examples were tested, and how: the plan of a shrink, or the evaluation itself."""
    return report.plan if isinstance(report, ShrinkReport) else report


LOOKS: dict[CandidateStatus, tuple[Mark, Look]] = {
    "shown": ("good", "good"),
    "inconclusive": ("unknown", "warn"),
    "worse": ("error", "bad"),
    "not evaluated": ("error", "bad"),
    "not tested": ("unknown", "dim"),
}


def title_blocks(report: ShrinkReport) -> list[Block]:
    """Return adapter, base, examples, plan and warnings."""
    conditions, plan = report.conditions, report.plan
    packed = f", {conditions.quantization}" if conditions.quantization else ""
    facts = [*_plan_facts(plan, f"{conditions.dtype}{packed}"), ("device", device_of(conditions))]
    warnings = [
        *(f"plan changed after the first answers: {change}" for change in plan.changes),
        *report.notes,
        *repeated_tests(report.tests),
    ]
    return [Heading("Shrink", level=1), Facts(facts), *warned(warnings)]


def _plan_facts(plan: ShrinkPlan, dtype: str = "") -> list[tuple[str, Inline]]:
    which = {None: " (all rows)", "confirm": " (test)"}.get(plan.role, f" ({plan.role})")
    best = plan.recommended
    if plan.given:
        why = "from --ranks"
    elif best is not None and best.predicted_drop is not None:
        why = f"from one size above rank {best.rank}, {best.predicted_drop.words}"
    else:
        source = (
            "the audit's p90 suggestion" if plan.calibration_sha256 is None else "the largest smaller size"
        )
        why = f"halvings of {plan.suggested_rank}, {source}"
    largest = Span(f"  rank {plan.rank}, {count(plan.lora_params)} LoRA parameters", "dim")
    facts: list[tuple[str, Inline]] = [
        ("adapter", (Span(plan.adapter, "name"), largest)),
        ("base", (Span(plan.base, "name"), Span(f"  {dtype}", "dim"))),
        ("examples", (f"{count(plan.examples)} of ", Span(plan.task, "name"), which)),
    ]
    facts += looks_fact(plan.looks)
    facts += [(planned.name, set_words(planned)) for planned in plan.guards]
    groups = []  # in test order; each kind is named once, before its ranks
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
    """Return one row for each candidate, and the result."""
    looks, by_likelihood = report.plan.looks, report.plan.compares == "nll"
    kind = "repeated 95 % interval" if looks else "95 % interval"
    legend: dict[str, Inline] = {"Δ": f"candidate − reference, in points (Tango's {kind})"}
    if by_likelihood:
        legend = {
            "NLL": "negative log-likelihood in nats per token",
            "ΔNLL": f"NLL − reference NLL (Student's {kind})",
        }
    by_agreement = report.plan.compares == "agreement"
    if by_agreement:
        legend = dict(agreement_legend(groups=report.plan.groups is not None, looks=bool(looks)))
    name = Span(report.reference.name, "name")
    rows: list[tuple[Span, str, str, EvaluatedAdapter | None, Inline]] = [
        (name, str(report.plan.rank), "", report.reference, ""),
        *(
            (
                Span(candidate.name, "name"),
                str(candidate.rank),
                percent(candidate.params_saved),
                candidate.result,
                Span("exploratory", "warn")
                if candidate.status == "shown" and report.plan.changes
                else Span(candidate.status, LOOKS[candidate.status][1]),
            )
            for candidate in report.candidates
        ),
    ]
    fields = outcome_fields(by_likelihood=by_likelihood, looks=bool(looks), by_agreement=by_agreement)
    guards = [column for guard in report.guards for column in _guard_columns(guard)]
    highs = {
        each.name: f"{each.predicted_drop.high:.1f}" for each in report.plan.candidates if each.predicted_drop
    }
    predicted = [Column("predicted", ">", drop=2)] if highs else []
    if predicted:
        legend["predicted"] = "drop in points, 90 % upper end"
    table = Table(
        [
            Column(),
            Column("rank", ">", drop=3),
            Column("saved", ">"),
            *predicted,
            *(c for c, _ in fields if c.shown),
            *(column for column, _ in guards),
            Column(),
        ],
        [
            (
                label,
                rank,
                saved,
                *(highs.get(str(label.text), "") for _ in predicted),
                *(cell(result) for column, cell in fields if column.shown),
                *(cell(str(label.text)) for _, cell in guards),
                status,
            )
            for label, rank, saved, result, status in rows
        ],
    )
    legend |= {planned.name: f"guard: {unit_words(planned)}" for planned in report.plan.guards}
    notes = [_answer(report)]
    last = _last_tested(report)
    if report.smallest is not None and last.status != "shown" and last.result is not None:
        # evidence that the next smaller candidate lacks
        needs = (
            last.needs
            if last.status == "inconclusive"
            else f"{last.words}: {refusal_of(report.guards, last)}"
        )
        notes.append(Note(LOOKS[last.status][0], needs))
    return [
        Heading(("Candidates, compared with ", name)),
        table,
        Notes(notes),
        Facts([*legend.items(), *LOOK_LEGEND[: len(looks)]]),
    ]


def _guard_columns(guard: GuardOutcome) -> list[tuple[Column, Callable[[str], Inline]]]:
    """Return the columns of a guard, with their cells by the name of an adapter."""
    rows = {row.name: row for row in (guard.reference, *guard.results)}

    def change(name: str) -> str:
        row = rows.get(name)
        return "" if row is None else level_or_delta_cell(row)

    interval = Column("95 % interval", ">", drop=8)
    return [(Column(guard.name, ">"), change), (interval, lambda name: interval_cell(rows.get(name)))]


def _last_tested(report: ShrinkReport) -> ShrinkCandidate:
    tested = [candidate for candidate in report.candidates if candidate.result is not None]
    return next((candidate for candidate in reversed(tested) if candidate.status != "not tested"), tested[-1])


def refusal_of(guards: Sequence[GuardOutcome], candidate: ShrinkCandidate) -> str:
    """Return why a candidate is worse or was not evaluated: on a guard, with its name, or on the task."""
    for guard in guards:
        row = guard.row(candidate.name)
        if row is not None and row.grade in ("D", "X"):
            return f"{row.reason} (on {guard.name})"
    return "" if candidate.result is None else candidate.result.reason


def _answer(report: ShrinkReport) -> Note:
    """The result, with its p-value and the file written."""
    shown = next((candidate for candidate in report.candidates if candidate.name == report.smallest), None)
    if shown is None:
        return Note(LOOKS[_last_tested(report).status][0], report.sentence)
    details: list[Inline] = []
    if shown.result is not None and shown.result.adjusted_p is not None:
        others = [row.adjusted_p for guard in report.guards if (row := guard.row(shown.name)) is not None]
        p = probability(max(shown.result.adjusted_p, *(value for value in others if value is not None), 0.0))
        details.append(f"Grade {shown.result.grade} ({p}, the largest p-value down to this candidate)")
        details.append(f"Written to adapter/ (sha256 {(report.smallest_sha256 or '')[:12]}…)")
    return Note("unknown" if report.plan.changes else "good", report.sentence, details)


def distance_blocks(report: ShrinkReport) -> list[Block]:
    """Return the change in the outputs of each candidate, compared with the rounding-noise floor."""
    control = report.control
    measured = [(candidate.name, candidate.distance, candidate.result) for candidate in report.candidates]
    measured.append(("rewrite control", control.distance, control.result))
    rows = [
        (name, distance, result)
        for name, distance, result in measured
        if distance is not None and (distance.nll is not None or distance.kl_per_example is not None)
    ]
    blocks: list[Block] = [Heading("Change in outputs")]
    if control.reason:
        blocks += warned([f"noise floor unknown, no rewrite control: {control.reason}"])
    if not rows:
        return blocks if control.reason else []
    predicted = {
        candidate.name: candidate.predicted_kl_per_token
        for candidate in report.candidates
        if candidate.predicted_kl_per_token is not None
    }
    tokens = bool(predicted) or any(result is not None and _has_tokens(result) for _, _, result in rows)
    table = table_of(
        rows,
        (Column(), lambda row: Span(row[0], "name")),
        (Column("ΔNLL", ">"), lambda row: _mean(row[1].nll)),
        (Column("95 % interval", ">", drop=1), lambda row: _interval(row[1].nll)),
        (
            Column("KL/example", ">"),
            lambda row: sig(None if row[1].kl_per_example is None else row[1].kl_per_example.mean, 2),
        ),
        (
            Column("KL/token", ">", shown=tokens),
            lambda row: MISSING if row[2] is None else kl_per_token(row[2]),
        ),
        (Column("predicted KL/token", ">", shown=bool(predicted)), lambda row: sig(predicted.get(row[0]), 2)),
        (Column("above noise floor", ">"), lambda row: _mean(row[1].kl_per_example_above_floor)),
        (Column("95 % interval", ">", drop=2), lambda row: _interval(row[1].kl_per_example_above_floor)),
        (Column("flips", ">", drop=3), lambda row: MISSING if row[2] is None else flips_cell(row[2])),
    )
    where = ", over the first look" if report.plan.looks else ""
    legend: list[tuple[str, Inline]] = [
        ("ΔNLL", "increase in NLL of the gold answers, in nats per example (positive is worse)"),
        ("KL/example", "KL divergence from the reference outputs, in nats per example"),
        (
            "above noise floor",
            f"KL/example − that of the rewrite control (the same update in other factors){where}",
        ),
        ("flips", "examples whose output changes"),
    ]
    if tokens:
        legend.append(("KL/token", "KL per scored token"))
    if predicted:
        legend.append(("predicted KL/token", "KL per scored token, predicted by the calibration"))
    return [*blocks, table, Facts(legend)]


def _has_tokens(result: EvaluatedAdapter) -> bool:
    return result.change is not None and result.change.has_tokens


def _mean(mean: MeanInterval | None) -> str:
    return MISSING if mean is None else _signed(mean.mean)


def _interval(mean: MeanInterval | None) -> str:
    if mean is None or mean.low is None or mean.high is None:
        return ""
    return f"{_signed(mean.low)} … {_signed(mean.high)}"


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{sig(abs(value), 2)}"


def caveat_blocks(report: ShrinkReport) -> list[Block]:
    """Return the limits of the result."""
    fixed = (
        "Candidates, examples and margin were fixed in plan.json before the evaluation"
        if not report.plan.changes
        else "The plan was changed after the first answers, so the 5 % error rate is not guaranteed"
    )
    any_scorer = f"{ANY_SCORER} " if report.plan.compares == "agreement" else ""
    return [
        Heading("Limits"),
        Paragraph(
            f"{any_scorer}One adapter gives at most grade B: another training run may give a different result. The"
            f" result does not cover untested candidates or examples unlike these. {fixed}."
        ),
    ]


SECTIONS: tuple[Callable[[ShrinkReport], list[Block]], ...] = (
    title_blocks,
    candidate_blocks,
    distance_blocks,
    caveat_blocks,
)
