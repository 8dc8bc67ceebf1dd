"""Reports of `gradience shrink`: the plan (`plan.json`), the result (`shrink.json`) and the dry run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Literal

from gradience.files.artifact import Artifact, Float12, Part, absent_at
from gradience.files.shared_names import PlainName
from gradience.reports import evaluation
from gradience.reports.base import blocks as doc
from gradience.reports.base.numbers import count, percent, probability, sig
from gradience.reports.base.report import COMPARED_PLOTS, Plots, Report, RunInfo
from gradience.reports.bench_plan import PLANNED, Compares, PlannedSet, Role, Share, margin_text
from gradience.reports.evaluation import UNITS

TestedStatus = Literal["shown", "inconclusive", "worse", "not evaluated"]
CandidateStatus = Literal[TestedStatus, "not tested"]


class Candidate(Part):
    """One smaller adapter."""

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

    @property
    def words(self) -> str:
        """Name of the candidate in a sentence."""
        return f"rank {self.rank}" if self.kind == "truncated" else f"{self.kind} rank {self.rank}"


class PlannedCandidate(Candidate):
    """One smaller adapter in the plan."""

    kept_energy: Float12
    """Energy kept: Σσ² kept / Σσ², over all modules."""
    predicted_kl_per_token: Float12 | None = None
    """KL predicted by the calibration, in nats per scored token; null without one and for a distilled candidate."""


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

    schema_: Literal["gradience.shrink_plan/2"] = "gradience.shrink_plan/2"
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
    groups: tuple[int, ...] | None = absent_at(None)
    """Group of each example, numbered in their order; absent if each example is its own."""
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
    """True if the ranks were given; otherwise they are halvings of the suggested rank."""
    candidates: tuple[PlannedCandidate, ...]
    """Candidates in test order: from the largest down, the distilled one before the smallest, which has its size."""
    calibration_sha256: str | None = None
    """sha256 of the calibration behind all candidates; null for truncations."""
    distillation: PlannedDistillation | None = None
    """Null if no candidate is distilled."""
    guards: tuple[PlannedSet, ...] = absent_at(())
    """Further data sets on which a candidate must hold, in test order; absent without any."""
    changes: tuple[str, ...] = ()
    """Changes to the plan of this folder that were made after the first answers."""

    @property
    def sets(self) -> tuple[ShrinkPlan | PlannedSet, ...]:
        """The data sets in test order: the task, which the plan itself describes, and the guards."""
        return (self, *self.guards)

    @property
    def margin_words(self) -> str:
        """Margin with its unit."""
        return margin_text(self.margin, self.compares)

    def on(self, planned: PlannedSet) -> ShrinkPlan:
        """Return the same plan with a guard in the place of the task."""
        values = {name: getattr(planned, name) for name in PLANNED}
        return self.model_copy(update={**values, "guards": ()})


class RewriteControl(Part):
    """The same update written in other factors and the same storage types: measures the rounding-noise floor."""

    result: evaluation.EvaluatedAdapter | None
    """Null if it could not be written."""
    reason: str = ""
    """Reason for a missing control."""


class ShrinkCandidate(Candidate):
    """A candidate of the plan and its outcome."""

    predicted_kl_per_token: Float12 | None = None
    """KL predicted in the plan."""
    status: CandidateStatus
    """`not tested`: the tests stopped at a larger one."""
    result: evaluation.EvaluatedAdapter | None = None
    """Result on the test rows; `adjusted_p` is the largest p-value down to this candidate. Null if not tested."""
    needs: str = ""
    """For an inconclusive candidate: the drop that is not ruled out, and the examples needed for the margin."""


class GuardOutcome(Part):
    """Results on a guard."""

    name: PlainName
    """Name of the guard; its records are in `guards/NAME/records/`."""
    source: dict[str, str]
    """Source of the examples."""
    reference: evaluation.EvaluatedAdapter
    results: tuple[evaluation.EvaluatedAdapter, ...]
    """Candidates that were shown on the sets before, from the largest down to the first that is not shown here."""

    def row(self, candidate: str) -> evaluation.EvaluatedAdapter | None:
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

    schema_: Literal["gradience.shrink/2"] = "gradience.shrink/2"
    base: str
    task: str
    source: dict[str, str]
    """Source of the examples."""
    plan: ShrinkPlan
    plan_sha256: str
    """sha256 of plan.json."""
    conditions: evaluation.EvaluationConditions
    reference: evaluation.EvaluatedAdapter
    """The reference adapter."""
    control: RewriteControl
    start: str
    """The candidate that was tested first."""
    candidates: tuple[ShrinkCandidate, ...]
    guards: tuple[GuardOutcome, ...] = absent_at(())
    """Results on the guards, in the order of the plan; absent without any, and if no candidate was shown before."""
    smallest: str | None
    """The smallest candidate that is shown on every data set, copied to `adapter/`; null if none is."""
    smallest_sha256: str | None
    """sha256 of its weights file."""
    sentence: str
    """The result in one sentence."""
    notes: tuple[str, ...]
    """Warnings shown above the results."""
    tests: int | None = absent_at(None)
    """Different tests of this reference on these rows in the ledger beside the folder, this one included; absent if
    none was counted."""
    run: RunInfo

    def blocks(self) -> doc.Document:
        """Return the sections of the report."""
        return [*title_blocks(self), *candidate_blocks(self), *caveat_blocks(self)]


class ShrinkForecast(evaluation.ComparisonForecast):
    """Dry run of a shrink: candidates, memory, and the smallest margin that can be shown. No model is loaded."""

    schema_: Literal["gradience.shrink_forecast/4"] = "gradience.shrink_forecast/4"
    plan: ShrinkPlan
    candidates: tuple[PlannedCandidate, ...]

    def blocks(self) -> doc.Document:
        """Return the plan, the smallest margins, and the assumptions."""
        plan, margins, predicts = self.plan, self.margins, self.plan.calibration_sha256 is not None
        predicted = doc.Column("predicted KL", ">", shown=predicts, legend=PREDICTED)
        table = doc.table_of(
            self.candidates,
            (doc.Column("candidate"), lambda row: doc.Span(row.name, "name")),
            (doc.Column("saved", ">"), lambda row: percent(row.params_saved)),
            (doc.Column("error", ">"), lambda row: percent(math.sqrt(max(0.0, 1 - row.kept_energy)))),
            (predicted, lambda row: sig(row.predicted_kl_per_token, 2)),
        )
        able = [evaluation.margin_note(plan.examples, plan.margin, margins, plan.looks)] if margins else []
        title = ("Shrink plan: ", doc.Span(plan.adapter, "name"), *evaluation.on_task(plan.task))
        candidates = doc.Heading("Candidates, tested from the largest down")
        legend = doc.Facts(doc.legend_of(table))
        return self.document(title, able, _plan_facts(plan), [candidates, table, legend])


def tested_by(report: evaluation.EvaluationReport | ShrinkReport) -> evaluation.EvaluationReport | ShrinkPlan:
    """Return what says which examples were tested, and how: the plan of a shrink, or the evaluation itself."""
    return report.plan if isinstance(report, ShrinkReport) else report


PREDICTED = "by the calibration, in nats per scored token (a label counts as one)"
STATUS_STYLES: dict[CandidateStatus, tuple[doc.Mark, doc.Style]] = {
    "shown": ("good", "good"),
    "inconclusive": ("unknown", "warn"),
    "worse": ("error", "bad"),
    "not evaluated": ("error", "bad"),
    "not tested": ("unknown", "dim"),
}


def title_blocks(report: ShrinkReport) -> list[doc.Block]:
    """Return adapter, base, examples, plan and warnings."""
    plan, control = report.plan, report.control
    facts = [evaluation.base_fact(plan.base, report.conditions), *_data_facts(plan, report)]
    warnings = [
        *(f"plan changed after the first answers: {change}" for change in plan.changes),
        *report.notes,
        *([f"noise floor unknown, no rewrite control: {control.reason}"] if control.reason else []),
        *evaluation.repeated_tests(report.tests),
    ]
    title = ("Shrink of ", doc.Span(plan.adapter, "name"), " on ", doc.Span(plan.task, "name"))
    scope = [] if report.smallest is None else [doc.Note("info", evaluation.ONE_TRAINING)]
    return evaluation.opening(title, [_answer(report), *_missing(report), *scope], facts, warnings)


def _data_facts(plan: ShrinkPlan, result: ShrinkReport | None = None) -> list[tuple[str, doc.Inline]]:
    """Return the examples, the guards, and the training of a distilled candidate. result: None for a plan."""
    guards = {} if result is None else {guard.name: guard.reference.n for guard in result.guards}
    facts = [evaluation.examples_fact(plan, None if result is None else result.reference.n)]
    facts += [
        (planned.name, evaluation.planned_words(planned, guards.get(planned.name))) for planned in plan.guards
    ]
    if plan.distillation is not None:
        steps = f"up to {count(plan.distillation.steps)} steps on "
        facts.append(("distilled", (steps, doc.Span(plan.distillation.prompts, "name"))))
    return facts


def _plan_facts(plan: ShrinkPlan) -> list[tuple[str, doc.Inline]]:
    if plan.given:
        why = "from --ranks"
    elif plan.calibration_sha256 is not None:
        why = "sizes of the powers of two below the rank"
    else:
        why = f"halvings of {plan.suggested_rank}, the audit's uniform_p90"
    ranks = ", ".join(dict.fromkeys(str(row.rank) for row in plan.candidates))
    size = doc.Span(f"  rank {plan.rank}, {count(plan.lora_params)} LoRA parameters", "dim")
    return [
        ("adapter", (doc.Span(plan.adapter, "name"), size)),
        ("base", doc.Span(plan.base, "name")),
        *_data_facts(plan),
        ("ranks", f"{ranks} ({why})"),
        ("margin", plan.margin_words + (" of the answers" if plan.compares == "agreement" else "")),
    ]


def candidate_blocks(report: ShrinkReport) -> list[doc.Block]:
    """Return one row for the reference and each candidate, and the legend."""
    plan = report.plan
    candidates = {row.name: row for row in report.candidates}
    rows = {report.reference.name: report.reference, **{name: row.result for name, row in candidates.items()}}
    results = [row for row in rows.values() if row is not None]
    predicts = any(row.predicted_kl_per_token is not None for row in report.candidates)
    kl, kl_cell = evaluation.kl_field(results, report.control.result)
    over = " over all looks" if plan.looks else ""
    bound = f"one-sided bound on Δ{over}; the margin is {plan.margin_words}"

    def result(
        cell: Callable[[evaluation.EvaluatedAdapter], doc.Inline],
        on: Mapping[str, evaluation.EvaluatedAdapter | None] = rows,
    ) -> Callable[[str], doc.Inline]:
        return lambda name: "" if (row := on.get(name)) is None else cell(row)

    def candidate(
        cell: Callable[[ShrinkCandidate], doc.Inline], reference: str = ""
    ) -> Callable[[str], doc.Inline]:
        return lambda name: cell(candidates[name]) if name in candidates else reference

    def status(row: ShrinkCandidate) -> doc.Inline:
        if row.status == "shown" and plan.changes:
            return doc.Span("exploratory", "warn")
        return doc.Span(row.status, STATUS_STYLES[row.status][1])

    columns = [
        (doc.Column(), lambda name: doc.Span(name, "name")),
        (doc.Column("outcome"), candidate(status)),
        (doc.Column("rank", ">", drop=3), candidate(lambda row: str(row.rank), str(plan.rank))),
        (doc.Column("saved", ">", drop=5), candidate(lambda row: percent(row.params_saved))),
        *((column, result(cell)) for column, cell in evaluation.outcome_fields(plan, results)),
        (
            doc.Column("95 % bound", ">", shown=plan.compares != "agreement", legend=bound),
            result(evaluation.bound_cell),
        ),
    ]
    for planned, guard in zip(plan.guards, report.guards, strict=False):
        on_guard = {row.name: row for row in (guard.reference, *guard.results)}
        legend = f"guard: {UNITS[planned.compares]}"
        columns += [
            (doc.Column(guard.name, ">", legend=legend), result(evaluation.level_or_delta_cell, on_guard)),
            (doc.Column("95 % bound", ">", drop=8), result(evaluation.bound_cell, on_guard)),
        ]
    predicted = doc.Column("predicted KL", ">", drop=4, shown=predicts, legend=PREDICTED)
    table = doc.table_of(
        rows,
        *columns,
        (kl, result(kl_cell)),
        (predicted, candidate(lambda row: sig(row.predicted_kl_per_token, 2))),
    )
    heading = doc.Heading(("Candidates, compared with ", doc.Span(report.reference.name, "name")))
    return [heading, table, doc.Facts(doc.legend_of(table))]


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


def _answer(report: ShrinkReport) -> doc.Note:
    """The result, with its p-value and the folder of the adapter."""
    shown = next((candidate for candidate in report.candidates if candidate.name == report.smallest), None)
    if shown is None:
        return doc.Note(STATUS_STYLES[_last_tested(report).status][0], report.sentence)
    details: list[doc.Inline] = []
    if shown.result is not None and shown.result.adjusted_p is not None:
        others = [row.adjusted_p for guard in report.guards if (row := guard.row(shown.name)) is not None]
        p = probability(max(shown.result.adjusted_p, *(value for value in others if value is not None), 0.0))
        details = [
            f"Grade {shown.result.grade} ({p}, the largest p-value of the candidates shown). The adapter is saved in"
            " the output folder as adapter/."
        ]
    return doc.Note("unknown" if report.plan.changes else "good", report.sentence, details)


def _missing(report: ShrinkReport) -> list[doc.Note]:
    """The evidence that the next smaller candidate lacks; empty if all are shown, or none."""
    last = _last_tested(report)
    if report.smallest is None or last.status == "shown" or last.result is None:
        return []
    refused = f"{last.words.capitalize()}: {refusal_of(report.guards, last)}"
    return [doc.Note(STATUS_STYLES[last.status][0], last.needs if last.status == "inconclusive" else refused)]


def caveat_blocks(report: ShrinkReport) -> list[doc.Block]:
    """Return the limits of the result."""
    fixed = "Candidates, examples and margin were fixed in plan.json before the first answer"
    if report.plan.changes:
        fixed = "The plan was changed after the first answers, so the 5 % error rate is not guaranteed"
    elif report.tests and report.tests > 1:
        fixed += f"; earlier tests on these examples: {report.tests - 1}"
    elif report.tests is None:
        fixed += "; earlier tests on these examples were not counted"
    any_scorer = f"{evaluation.ANY_SCORER} " if report.plan.compares == "agreement" else ""
    return [
        doc.Heading("Limits"),
        doc.Paragraph(
            f"{any_scorer}One adapter gives at most grade B, and the result does not cover untested candidates or"
            f" examples unlike these. {fixed}."
        ),
    ]
