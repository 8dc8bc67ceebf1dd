"""Reports of `gradience evaluate`: the result (`evaluation.json`), the result on several data sets
(`evaluation_sets.json`) with its plan, and the dry run with a preview of the prompts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal

from gradience.files.artifact import Artifact, Float12, Part, absent_at
from gradience.files.shared_names import PlainName
from gradience.reports.base import blocks as doc
from gradience.reports.base import graded as grading
from gradience.reports.base import numbers
from gradience.reports.base.report import COMPARED_PLOTS, Plots, Readable, Report, RunInfo
from gradience.reports.bench_plan import Compares, PlannedSet, Role, Share, margin_text
from gradience.reports.forecast import ScoredExample, scored_facts, typical_discordances
from gradience.statistics.table import PairedTable
from gradience.words import noun, points

if TYPE_CHECKING:
    from gradience.reports.shrink import ShrinkPlan

RowRole = Literal["reference", "candidate", "base"]
REFERENCE: Literal["reference"] = "reference"
CANDIDATE: Literal["candidate"] = "candidate"
BASE: Literal["base"] = "base"
BASE_MODEL = "base model"


class OutputChange(Part):
    """Distance of the outputs from the reference's, regardless of correctness."""

    kl_per_example: Float12
    """KL(reference ‖ candidate) in nats per example: over the labels, or summed over the gold response's tokens."""
    flipped_examples: int | None = None
    """Examples with a different label, choice or extracted answer; for `scorer=nll`, examples with a different most
    likely token at one position or more."""
    kl_per_token: Float12 | None = None
    """KL per scored token, as predicted by `gradience calibrate`; a label counts as one token."""

    @property
    def has_tokens(self) -> bool:
        """True if KL per example and per token differ (a label has one scored token)."""
        return self.kl_per_token not in (None, self.kl_per_example)


class RecordsFile(Part):
    """A file of records, one line per example."""

    path: PlainName
    """Path inside the folder of the evaluation."""
    sha256: str


StopReason = Literal["shown", "worse", "conditional power", "limit", "last look"]


class TestedLook(Part):
    """The look at which a candidate's test stopped, and its repeated interval.

    With planned looks, `bounds` and `adjusted_p` are repeated ones as well: they hold over all looks.
    """

    __test__: ClassVar[bool] = False  # for pytest
    number: int
    """Number of the look, from 1."""
    nominal_level: Float12
    """One-sided level of the fixed test at this look; over all looks the error is 5 %."""
    low: Float12
    """Lower end of the repeated 95 % interval of Δ; for likelihoods, Δ is the gain per token."""
    high: Float12
    conditional_power: Float12
    """Chance to reach B at the last look if the observed trend continues."""
    stopped: StopReason | None
    """Reason for stopping: `shown` and `worse` cross a boundary; `conditional power`: below 5 % for either result;
    `limit`: the given limit. Null for a row that is not tested."""

    @property
    def why_early(self) -> str:
        """Reason for stopping without a result before the last look, as a further sentence; empty for others."""
        if self.stopped == "conditional power":
            chance = (
                "below 0.1 %" if self.conditional_power < 0.001 else f"{100 * self.conditional_power:.1f} %"
            )
            return f". Stopped early: with the remaining examples, the chance of grade B would be {chance}"
        return f". The test stopped at look {self.number}, at --limit" if self.stopped == "limit" else ""


class EvaluatedAdapter(Part):
    """One row: an adapter or the base model, and its comparison with the reference."""

    name: str
    role: RowRole
    """`base`: the base without an adapter; for a classifier, the reference with its LoRA off and its own head."""
    path: str | None
    """Path of the adapter; null for the base."""
    sha256: str | None
    """sha256 of the weights file."""
    config_sha256: str | None
    smallest_rank: int | None
    largest_rank: int | None
    lora_params: int | None
    """LoRA parameters; null for an adapter known only to its engine, by name."""
    other_params: int | None
    """Parameters of heads and full-weight modules."""
    params_saved: Float12 | None
    """Share of the reference's LoRA parameters saved; null for the reference and the base."""
    n: int | None = None
    """Number of examples; null if it could not be evaluated."""
    correct: int | None = None
    """Number of correct answers; of prompts without answers, of outputs that equal the reference's. Null if likelihoods
    are compared."""
    truncated: int | None = None
    """Inputs truncated because they were too long."""
    cut_off: int | None = None
    """Outputs cut off at `max_new_tokens`."""
    failed_extractions: int | None = None
    """Outputs without an extractable answer; counted as wrong."""
    pairs: PairedTable | None = None
    """Paired counts against the reference; null for the reference, and if likelihoods are compared."""
    likelihood: grading.LikelihoodEvidence | None = None
    """Likelihoods of the given responses, if likelihoods are compared."""
    bounds: grading.Bounds | None = None
    """One-sided 95 % bounds on Δ, and the p-value against a drop of the margin or more. For likelihoods, Δ is the gain
    in log-likelihood per token: −ΔNLL. Of prompts without answers, both are the exact binomial bound of the share of
    changed answers, or of groups with any."""
    adjusted_p: grading.Probability | None = None
    """Holm-adjusted p-value over all evaluated candidates; null for the base, which is not tested."""
    change: OutputChange | None = None
    grade: grading.Grade | None = None
    """B: shown for these adapters. C: inconclusive, or the plan changed after the first answers. D: worse. X: could
    not be evaluated. A needs several training runs. Null for the reference and the base."""
    reason: str = ""
    """Explanation of the grade in one sentence."""
    next_grade: grading.NextGrade | None = None
    """Requirements for a B, if the grade is C."""
    look: TestedLook | None = None
    """Null if all examples were answered at once, and for the reference."""
    records: tuple[RecordsFile, ...] = ()
    """Records of the answers; for free text also the scores of the gold responses. Empty if none were kept."""

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers; None without answers."""
        return None if not self.n or self.correct is None else self.correct / self.n

    @property
    def gain(self) -> float | None:
        """Difference from the reference, above 0 if better: accuracy, or nats per token; None without a comparison."""
        if self.likelihood is not None:
            return None if self.likelihood.delta is None else -self.likelihood.delta
        return None if self.pairs is None else self.pairs.delta

    @property
    def is_lower(self) -> bool:
        """True if the whole 95 % interval is on the side of a loss."""
        low, high = self.interval or (0.0, 0.0)
        return high < 0 if self.likelihood is None else low > 0

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of Δ, or of ΔNLL: the repeated one if there were looks; None if it is unknown."""
        if self.look is not None:
            low, high = self.look.low, self.look.high
            return (low, high) if self.likelihood is None else (-high, -low)
        shown = self.pairs if self.likelihood is None else self.likelihood
        return None if shown is None or shown.low is None or shown.high is None else (shown.low, shown.high)


class EvaluationConditions(Part):
    """Conditions that affect the answers, besides adapter and examples."""

    engine: str
    """Engine that produced the answers."""
    divergence_engine: str | None = absent_at(None)
    """Engine that measured KL and flips on the gold responses, if different from `engine`; otherwise absent."""
    device: str | None
    """Null, like all fields below, if the engine does not report it."""
    threads: int | None
    dtype: str | None
    """Precision of the base's weights; for a quantized base, of its embeddings, norms and head."""
    quantization: str | None
    """Quantization of the base's linear layers; null for none."""
    attention: str | None
    batch_size: int
    """Maximum number of examples in a batch."""
    batch_tokens: int | None = None
    """Maximum number of tokens in a batch; null if a number of examples was given."""
    max_length: int | None
    max_new_tokens: int | None
    versions: dict[str, str]
    batch_invariant: bool | None = absent_at(None)
    """vLLM only: true if answers do not depend on the rest of the batch. Absent for other engines."""
    base_fingerprint: str
    """Commit on the hub, or sha256 over the names and hashes of the folder's files."""
    tokenizer_sha256: str | None
    scoring: str | None
    """Rule that decides whether an answer is correct."""


class EvaluationReport(Report):
    """Several adapters of one base model on the same examples, each compared with the first.

    >>> report = EvaluationReport.read("evaluation.json")
    >>> [(row.name, row.correct, row.grade) for row in report.adapters]
    [('my_adapter', 1793, None), ('rank4', 1793, 'B'), ('rank1', 1769, 'B'), ('base', 1152, None)]
    """

    row_field: ClassVar[str] = "adapters"
    repair: ClassVar[str] = "repeat the gradience evaluate command"
    plots: ClassVar[Plots] = COMPARED_PLOTS

    schema_: Literal["gradience.evaluation/2"] = "gradience.evaluation/2"
    base: str
    task: str
    source: dict[str, str]
    """Source of the examples."""
    role: Role | None
    """Split of the task; null for all rows of a file."""
    examples: int
    """Planned number of examples; `n` of each row is the number that was needed."""
    examples_sha256: str
    """sha256 over the content of the examples, in order."""
    looks: tuple[int, ...] = ()
    """Numbers of examples at the planned looks; empty if all examples were answered at once."""
    groups: tuple[int, ...] | None = absent_at(None)
    """Group of each example, numbered in their order; absent if each example is its own."""
    grown_from: int | None = None
    """Number of examples planned before the first answers, if there are more now: then no grade is above C."""
    margin: Share
    """Drop that a grade B rules out: a share of the examples or, for likelihoods, nats per token."""
    by_agreement: bool = absent_at(False)
    """True if the prompts have no answers: outputs are compared with the reference's. Else absent."""
    first_margin: Share | None = absent_at(None)
    """Margin when the first answers were saved, if it has changed since: no grade is then above C. Otherwise absent."""
    conditions: EvaluationConditions
    adapters: tuple[EvaluatedAdapter, ...]
    """Reference, then candidates in the given order, then the base."""
    notes: tuple[str, ...]
    """Warnings shown above the results."""
    tests: int | None = absent_at(None)
    """Different tests of this reference on these rows in the ledger beside the folder, this one included; absent if
    none was counted."""
    run: RunInfo

    def blocks(self) -> doc.Document:
        """Return the sections of the report."""
        return [*title_blocks(self), *table_blocks(self), *answer_blocks(self), *caveat_blocks(self)]

    @property
    def candidates(self) -> tuple[EvaluatedAdapter, ...]:
        """Rows of the candidates."""
        return tuple(row for row in self.adapters if row.role == CANDIDATE)

    def row(self, name: str) -> EvaluatedAdapter | None:
        """Return the row of an adapter or the base; None if there is none."""
        return next((row for row in self.adapters if row.name == name), None)

    @property
    def base_words(self) -> str:
        """Name of the base's row. A classifier's base has no head of its own and is tested under the reference's."""
        reference, *others = self.adapters
        labels = reference.likelihood is None and self.conditions.max_new_tokens is None
        # Choices have KL per token of a response, or none.
        changes = [row.change for row in others if row.role == BASE]
        labels = labels and not any(change is None or change.has_tokens for change in changes)
        return "LoRA off, same head" if labels and reference.other_params else BASE_MODEL

    @property
    def compares(self) -> Compares:
        """Quantity compared with the reference."""
        if self.adapters[0].likelihood is not None:
            return "nll"
        return "agreement" if self.by_agreement else "correct"

    @property
    def changes(self) -> tuple[str, ...]:
        """Sentences about what was changed after the first answers; with any, no grade is above C."""
        if self.first_margin is None:
            return ()
        before, now = (margin_text(margin, self.compares) for margin in (self.first_margin, self.margin))
        return (f"the margin was {before} when the first answers were saved, and is {now} now",)


class ShownMargin(Part):
    """Smallest margin that the examples can show with an 80 % chance, if both adapters are equally good."""

    discordance: Float12
    """Assumed share of the examples on which exactly one of the two adapters is correct."""
    margin: Float12


class ComparisonForecast(Readable):
    """The part that the dry runs of `evaluate` and `shrink` share: memory, and the drops that can be detected."""

    schema_: str
    margins: tuple[ShownMargin, ...]
    """Empty if likelihoods are compared: the spread of their differences is not known in advance."""
    weights_bytes: int | None
    """Base model in its precision; null if the shape of the model is unknown."""
    adapter_bytes: int
    """The two largest adapters in float32: no more are loaded at once."""
    batch_bytes: int | None
    """Largest activations of a batch, and its KV cache."""
    process_bytes: int | None
    """Python, PyTorch and their libraries, measured in the process that made the forecast; 0 on a GPU."""
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def memory(self) -> dict[str, int]:
        """The parts of the memory, in bytes; empty if one is unknown."""
        if self.weights_bytes is None or self.batch_bytes is None:
            return {}
        parts = {"base": self.weights_bytes, "adapters": self.adapter_bytes, "one batch": self.batch_bytes}
        return {**parts, "Python and libraries": self.process_bytes or 0}

    def document(
        self,
        title: doc.Inline,
        able: Sequence[doc.Note],
        facts: Sequence[tuple[str, doc.Inline]],
        tables: Sequence[doc.Block] = (),
    ) -> doc.Document:
        """Return the margins that can be shown, the facts of the plan with its memory, notes, and the tables."""
        parts = [("memory", numbers.memory_parts(self.memory))] if self.memory else []
        heading = doc.Heading(title, level=1, aside="dry run: no model was loaded")
        notes = [doc.Note("warning", text) for text in self.notes]
        notes += [doc.Note("info", text) for text in self.assumptions]
        return [heading, doc.Notes(able), doc.Facts([*facts, *parts]), doc.Notes(notes), *tables]


class EvaluationForecast(ComparisonForecast):
    """Dry run of an evaluation: adapters, memory and smallest margins. No model is loaded."""

    schema_: Literal["gradience.evaluation_forecast/2"] = "gradience.evaluation_forecast/2"
    base: str
    task: str
    adapters: tuple[str, ...]
    """Names of the adapters, the reference first."""
    with_base: bool
    examples: int
    looks: tuple[int, ...] = absent_at(())
    """Numbers of examples at the planned looks; absent if all examples are answered at once."""
    guard: bool = absent_at(False)
    """True for a guard; absent for the task."""
    margin: Share
    scored_by: str = absent_at("")
    """Scorer in use; absent if the task has only one, and without `preview`."""
    scored: tuple[ScoredExample, ...] = absent_at(())
    """The first three examples; absent without `preview`."""
    others: dict[PlainName, EvaluationForecast] = absent_at({})
    """Further data sets by name, each with its dry run; absent without any."""

    @property
    def memory(self) -> dict[str, int]:
        """The parts of the memory for the data set that takes most."""
        parts = [super().memory, *(other.memory for other in self.others.values())]
        return max(parts, key=lambda memory: sum(memory.values()))

    @property
    def margin_words(self) -> str:
        """Margin with its unit."""
        return margin_text(self.margin, "correct" if self.margins else "nll")

    def blocks(self) -> doc.Document:
        """Return the plan, the smallest margins, and the assumptions."""
        compared = [*self.adapters[1:], *([BASE_MODEL] if self.with_base else [])]
        facts: list[tuple[str, doc.Inline]] = [
            ("base", doc.Span(self.base, "name")),
            *([("compared", doc.first_names(compared, len(compared)))] if compared else []),
            ("examples", f"{numbers.count(self.examples)}{looks_words(self.looks, None)}"),
            *((name, planned_words(other)) for name, other in self.others.items()),
        ]
        notes = [
            margin_note(plan.examples, plan.margin, plan.margins, plan.looks, of=name)
            for name, plan in (("", self), *self.others.items())
            if plan.margins and plan.adapters[1:]
        ]
        title = ("Evaluation plan: against ", doc.Span(self.adapters[0], "name"), *on_task(self.task))
        return self.document(title, notes, facts, sample_blocks({"Sample examples": self, **self.others}))


def sample_blocks(plans: Mapping[str, EvaluationForecast]) -> list[doc.Block]:
    """Return the previewed examples under the names of their data sets, as the model sees them, and a legend."""
    rows, blocks = [row for plan in plans.values() for row in plan.scored], list[doc.Block]()
    for name, plan in plans.items() if rows else ():
        blocks += [doc.Heading(name), doc.Facts(scored_facts(plan.scored, plan.scored_by))]
    legend = "expected: the correct answer."
    if any(row.response is not None for row in rows):
        legend += " gold response: used for likelihood and KL."
    if any(row.correct is not None for row in rows):
        legend += " extracted: the answer that the scorer finds in the gold response."
    return [*blocks, doc.Paragraph(legend)] if rows else []


def on_task(task: str) -> tuple[str | doc.Span, ...]:
    """Return ` on reviews`; for the examples of a file, the task's name says only how they are read."""
    if task in ("chat", "classification", "jsonl"):
        return (" on your examples",)
    return (" on ", doc.Span(task, "name"))


class Ledger(Artifact):
    """`.gradience/ledger.json` beside the folders of runs: tests of the same reference on the same rows."""

    repair: ClassVar[str] = "remove it: tests are then counted from 1 again"

    schema_: Literal["gradience.ledger/1"] = "gradience.ledger/1"
    key: str
    """Random key of the digests, so that those of two ledgers cannot be compared."""
    tests: dict[str, tuple[str, ...]]
    """Keyed digest of reference and rows -> keyed digests of the different tests."""


class KeptFile(Part):
    """Key and digest of one file of records."""

    key: str
    """sha256 over everything that the records depend on."""
    sha256: str | None
    """sha256 of the finished file; null while records are added."""


class KeptBudget(Part):
    """Automatic batch size, found once and reused when the evaluation resumes."""

    key: str
    """sha256 over base, precision and device."""
    tokens: int
    """Maximum number of tokens in a batch."""


class KeptRecords(Artifact):
    """`records/manifest.json`: the records that can be reused."""

    schema_: Literal["gradience.kept_records/2"] = "gradience.kept_records/2"
    files: dict[PlainName, KeptFile]
    """File name -> key and digest."""
    plan: str | None = None
    """sha256 of the plan.json that was fixed before the first answer; null for an evaluation, which has none."""
    examples: int | None = None
    """Planned number of examples of an evaluation; null for a shrink, whose plan.json has it."""
    claims: tuple[tuple[str, ...], ...] | None = absent_at(None)
    """Planned allocation of the 5 % of an evaluation: one list for each candidate, among which it is shared (Holm).
    Absent for a shrink, whose candidates are tested in order at the full level."""
    margins: dict[str, Share] = absent_at({})
    """Margin of an evaluation when its first answers were saved, for `correct` or `nll`; absent for a shrink."""
    budget: KeptBudget | None = None
    """Null if a number of examples was given."""


ASSUMED = 0.05
"""Discordance at which dry runs give the smallest margin."""
ANY_SCORER = (
    "For any deterministic scorer of the output text with values between 0 and 1, the mean score drops by at most the"
    " share of changed outputs. A changed output need not be worse. Nothing is said about likelihoods (NLL)."
)
ONE_TRAINING = "The result holds for these adapters; another training run may differ."


# ---------------------------------------------------------------- the evaluation


def title_blocks(report: EvaluationReport) -> list[doc.Block]:
    """Return base, examples, device and warnings."""
    conditions = report.conditions
    facts = [base_fact(report.base, conditions), examples_fact(report, report.adapters[0].n)]
    if conditions.engine != "transformers":
        version = conditions.versions.get(conditions.engine, "")
        varies = ", not batch-invariant" if conditions.batch_invariant is False else ""
        divergence = conditions.divergence_engine
        scores = doc.Span("" if divergence is None else f"; KL and flips: {divergence}", "dim")
        facts.append(("engine", (f"{conditions.engine} {version}{varies}".strip(), scores)))
    title = (
        "Evaluation against ",
        doc.Span(report.adapters[0].name, "name"),
        " on ",
        doc.Span(report.task, "name"),
    )
    gain = gain_over_base(report)
    answer = [*grade_notes(report), *([] if gain is None else [gain])]
    answer += [doc.Note("info", ONE_TRAINING)] if report.candidates else []
    return opening(title, answer, facts, warnings_of(report))


def opening(
    title: doc.Inline,
    answer: Sequence[doc.Note],
    facts: Sequence[tuple[str, doc.Inline]],
    warnings: Sequence[doc.Inline],
) -> list[doc.Block]:
    """Return the title, the answer, the conditions, and the warnings."""
    return [doc.Heading(title, level=1), doc.Notes(answer), doc.Facts(facts), doc.warned(warnings)]


def warnings_of(report: EvaluationReport) -> list[str]:
    """Return the warnings shown above the results."""
    return [*change_warnings(report.changes), *report.notes, *repeated_tests(report.tests)]


def change_warnings(changes: Sequence[str]) -> list[str]:
    """Return the warnings about what was changed after the first answers."""
    return [f"{change}: no grade is above C" for change in changes]


def repeated_tests(tests: int | None) -> list[str]:
    """Return the warning about several tests of one reference on the same rows, each at 5 %."""
    if tests is None or tests < 2:
        return []
    most = min(100.0, 5.0 * tests)
    return [
        f"{tests} tests of this reference adapter on these examples: the chance of one or more false claims among"
        f" them is up to {most:.0f} %, not 5 %"
    ]


def base_fact(base: str, conditions: EvaluationConditions) -> tuple[str, doc.Inline]:
    """Return the base with its precision and its device."""
    weights = conditions.dtype or "precision unknown"
    if conditions.quantization is not None:
        weights = f"linear layers {conditions.quantization}, the rest {weights}"
    device = "" if conditions.device is None else f", {conditions.device}"
    return ("base", (doc.Span(base, "name"), doc.Span(f"  {weights}{device}", "dim")))


def examples_fact(
    tested: EvaluationReport | ShrinkPlan, answered: int | None = None
) -> tuple[str, doc.Inline]:
    """Return `560 of 2,186 (reviews, test split), stopped at look 2 of 9`, or `1,000 rows (task jsonl)` for a file.

    answered: examples that the reference answered; None for a plan.
    """
    task, looks = doc.Span(tested.task, "name"), looks_words(tested.looks, answered)
    examples = answered_words(tested.examples, answered)
    if tested.role is None:
        return ("examples", (f"{examples} rows (task ", task, f"){looks}"))
    split = "test" if tested.role == "confirm" else tested.role
    return ("examples", (f"{examples} (", task, f", {split} split){looks}"))


def answered_words(planned: int, answered: int | None) -> str:
    """Return `560 of 2,186`, or `2,186` if all were answered, and for a plan."""
    return (
        numbers.count(planned)
        if answered in (None, planned)
        else f"{numbers.count(answered or 0)} of {numbers.count(planned)}"
    )


def planned_words(
    planned: EvaluationForecast | PlannedSet, answered: int | None = None
) -> tuple[str | doc.Span, ...]:
    """Return a data set in one line: `guard, 1,319 examples of gsm8k, margin 5.00 points`.

    answered: examples that the reference answered; None for a plan.
    """
    number = f"{answered_words(planned.examples, answered)} {noun(planned.examples, 'example')} of "
    looks = looks_words(planned.looks, answered)
    return (
        "guard, " if planned.guard else "",
        number,
        doc.Span(planned.task, "name"),
        f"{looks}, margin {planned.margin_words}",
    )


def looks_words(looks: Sequence[int], answered: int | None) -> str:
    """Return the planned looks, or at which the tests stopped; empty without looks."""
    if not looks:
        return ""
    if answered is None:
        return f", up to {len(looks)} looks, the first at {numbers.count(looks[0])} examples"
    return f", stopped at look {sum(look <= answered for look in looks)} of {len(looks)}"


CHANGES: dict[Compares, str] = {
    "correct": "drop",
    "nll": "NLL increase",
    "agreement": "share of changed answers",
}
"""Quantity that the margin limits."""
OutcomeColumn = tuple[doc.Column, Callable[[EvaluatedAdapter], doc.Inline]]
"""A column, and its cell for a row."""


def table_blocks(report: EvaluationReport) -> list[doc.Block]:
    """Return one row for each adapter, the grade of each candidate, and the legend."""
    reference, by_likelihood = report.adapters[0], report.compares == "nll"
    graded = report.compares != "agreement"
    bound = f"one-sided bound on {'ΔNLL' if by_likelihood else 'Δ'}"
    bound += ", valid at every look" if report.looks else ""
    bound += "; compared with the margin" if report.candidates else ""
    flips = any(row.change is not None and row.change.flipped_examples is not None for row in report.adapters)
    changed = (
        f"examples whose {'top-1 tokens differ' if by_likelihood else 'output differs'} from the reference's"
    )
    heading = doc.Heading("Likelihood of the responses" if by_likelihood else "Accuracy")
    if report.candidates:
        heading = doc.Heading(("Candidates, compared with ", doc.Span(reference.name, "name")))
    table = doc.table_of(
        report.adapters,
        (doc.Column(), lambda row: name_cell(row, report.base_words)),
        (doc.Column("grade", shown=bool(report.candidates)), lambda row: row.grade or ""),
        (doc.Column("rank", ">", drop=3), ranks_cell),
        (doc.Column("saved", ">", drop=4), saved_cell),
        *outcome_fields(report, report.adapters),
        (doc.Column("95 % bound", ">", drop=7, shown=graded, legend=bound), bound_cell),
        kl_field(report.adapters),
        (
            doc.Column("flips", ">", drop=1, shown=flips, legend=changed),
            lambda row: _change(row, "flipped_examples"),
        ),
    )
    return [heading, table, *([doc.Facts(doc.legend_of(table))] if len(report.adapters) > 1 else [])]


def outcome_fields(
    tested: EvaluationReport | ShrinkPlan, rows: Sequence[EvaluatedAdapter]
) -> tuple[OutcomeColumn, ...]:
    """Return the columns of a comparison with the reference: accuracy or likelihood, and Δ; of prompts without answers,
    how many outputs change. rows: the reference, and those compared with it."""
    looks, whole = bool(tested.looks), rows[0].n
    over = " over all looks" if looks else ""
    changed = "changed outputs" if tested.groups is None else "groups with a changed output"
    fewer = any(row.n != whole and row.pairs is not None for row in rows)
    versus = "candidate vs reference on the candidate's examples, if fewer" if fewer else ""
    measures: dict[Compares, tuple[OutcomeColumn, ...]] = {
        "correct": (
            (doc.Column("correct", ">", legend=versus), lambda row: correct_cell(row, whole)),
            (doc.Column("Δ", ">", legend="candidate − reference, in points"), delta_cell),
        ),
        "nll": (
            (doc.Column("NLL", ">", legend="negative log-likelihood in nats per token"), _nll_cell),
            (doc.Column("ΔNLL", ">", legend="NLL − reference NLL (positive is worse)"), delta_cell),
        ),
        "agreement": (
            (
                doc.Column("unchanged", ">", legend="outputs with exactly the reference's text"),
                correct_cell,
            ),
            (
                doc.Column("changed", ">"),
                lambda row: "" if row.pairs is None else numbers.count(row.pairs.n10),
            ),
            (
                doc.Column("at most", ">", legend=f"{changed}: exact binomial bound, 95 % confidence{over}"),
                lambda row: "" if row.bounds is None else f"{-100 * row.bounds.low:.2f} %",
            ),
        ),
    }
    return ((doc.Column("examples", ">", drop=6, shown=looks), examples_cell), *measures[tested.compares])


def name_cell(row: EvaluatedAdapter | JointAdapter, base: str = BASE_MODEL) -> doc.Inline:
    """Return the name of an adapter, or `base` for the base's row."""
    return base if row.role == BASE else doc.Span(row.name, "name")


def saved_cell(row: EvaluatedAdapter) -> str:
    """Return the share of parameters saved; empty for the reference and the base."""
    return "" if row.params_saved is None else numbers.percent(row.params_saved)


def ranks_cell(row: EvaluatedAdapter) -> str:
    """Return `4`, or `2–8` if modules differ."""
    return (
        numbers.MISSING
        if row.smallest_rank is None
        else numbers.number_range([row.smallest_rank, row.largest_rank or 0])
    )


def correct_cell(row: EvaluatedAdapter, whole: int | None = None) -> str:
    """Return `1,793 (82.0 %)`, or `280 vs 281` with the reference's count on the same examples if the row has fewer."""
    if row.n is None or row.correct is None:
        return numbers.MISSING
    share = f" ({100 * row.correct / row.n:.1f} %)"
    if whole in (None, row.n) or row.pairs is None:
        return numbers.count(row.correct) + share
    return numbers.count(row.correct) + f" vs {numbers.count(row.pairs.n11 + row.pairs.n10)}".ljust(
        len(share)
    )


def _nll_cell(row: EvaluatedAdapter) -> str:
    return numbers.MISSING if row.likelihood is None else f"{row.likelihood.nll:.4f}"


def level_cell(row: EvaluatedAdapter) -> str:
    """Return `82.0 %`, or `NLL 2.1234`."""
    if row.likelihood is not None:
        return f"NLL {_nll_cell(row)}"
    return numbers.MISSING if row.accuracy is None else f"{100 * row.accuracy:.1f} %"


def level_or_delta_cell(row: EvaluatedAdapter) -> str:
    """Return the level of the reference, and of any other row its difference from it."""
    return level_cell(row) if row.role == REFERENCE else delta_cell(row)


def delta_cell(row: EvaluatedAdapter) -> str:
    """Return the difference from the reference: `−1.10` points, or `+0.0120` nats per token; empty for itself."""
    if row.role == REFERENCE:
        return ""
    if row.likelihood is not None and row.likelihood.delta is not None:
        return _nats(row.likelihood.delta)
    return numbers.MISSING if row.pairs is None else points(row.pairs.delta)


def bound_cell(row: EvaluatedAdapter) -> str:
    """Return the one-sided bound that is compared with the margin: `−2.34` points, or `+0.0120` of ΔNLL."""
    if row.bounds is None:
        return ""
    return points(row.bounds.low) if row.likelihood is None else _nats(-row.bounds.low)


def examples_cell(row: EvaluatedAdapter) -> str:
    """Return `560 (look 2)`."""
    if row.n is None:
        return numbers.MISSING
    return numbers.count(row.n) if row.look is None else f"{numbers.count(row.n)} (look {row.look.number})"


def kl_field(rows: Sequence[EvaluatedAdapter], floor: EvaluatedAdapter | None = None) -> OutcomeColumn:
    """Return the column of the KL, empty for the reference. floor: the rewrite control, if one was evaluated."""
    changes = [row.change for row in rows if row.change is not None]
    unit = "token" if any(change.has_tokens for change in changes) else "example"
    rounding = ""
    if floor is not None and floor.change is not None:
        rounding = f"; {_change(floor, f'kl_per_{unit}')} from rounding alone"
    legend = f"KL from the reference outputs, in nats{rounding}"
    column = doc.Column(f"KL/{unit}", ">", drop=2, shown=bool(changes), legend=legend)
    return column, lambda row: _change(row, f"kl_per_{unit}")


def _change(row: EvaluatedAdapter, field: str) -> str:
    if row.role == REFERENCE:
        return ""
    value = getattr(row.change, field, None)
    return numbers.count(value) if isinstance(value, int) else numbers.sig(value, 2)


def _nats(value: float) -> str:
    """`+0.0012`, `−0.3400`; 0 without a sign."""
    text = f"{abs(value):.4f}"
    return text if not float(text) else f"{'−' if value < 0 else '+'}{text}"


def grade_notes(report: EvaluationReport) -> list[doc.Note]:
    """Return the grade of each candidate, its p-value, and the examples that a B would need."""
    tested = sum(row.adjusted_p is not None for row in report.candidates)
    adjusted = f", Holm-adjusted for {tested} candidates" if tested > 1 else ""
    null = f"null hypothesis: the {CHANGES[report.compares]} is at least the margin"
    notes: list[doc.Note] = []
    for row in report.candidates:
        details: list[doc.Inline] = []
        if row.adjusted_p is not None and row.grade == "B":
            details.append(f"{numbers.probability(row.adjusted_p)}{adjusted} ({null})")
        if row.next_grade is not None:
            needs = examples_needed(row, report.compares)
            details.append(f"For grade B: {needs}")
        notes += grading.grade_note(row.name, row.grade, row.reason, details)
    return notes


def examples_needed(row: EvaluatedAdapter, compares: Compares) -> str:
    """Return the examples needed for grade B, and the assumption about the candidate."""
    loses = (row.gain or 0.0) < 0
    if compares == "correct" and row.pairs is not None and not row.pairs.n11 + row.pairs.n10:
        return "the reference answers nothing correctly, so there is no accuracy to keep"
    assumption = "the true drop equals the observed one" if loses else "both adapters are equally good"
    if compares == "agreement":
        assumption = "the true share of changed answers equals the observed one"
    if row.next_grade is None or not row.next_grade.examples:
        observed = f"the observed {CHANGES[compares]} is at least the margin"
        return f"{observed}, so more examples help only if the true one is smaller"
    at_once = "" if compares == "nll" else " with --all-rows"  # at looks, the default, more are needed
    number = row.next_grade.examples_words
    return f"{number} examples are needed{at_once} for 80 % power, if {assumption}"


def gain_over_base(report: EvaluationReport) -> doc.Note | None:
    """Return the reference's gain or loss over the base's row; None if the base was not evaluated."""
    base = next((row for row in report.adapters if row.role == BASE), None)
    if base is None or report.by_agreement or base.interval is None:
        return None
    nll = base.likelihood is not None
    compared = base.pairs if base.likelihood is None else base.likelihood
    delta = None if compared is None else compared.delta
    if delta is None:
        return None
    low, high = sorted(-end for end in base.interval)
    show, measure, unit = (_nats, "NLL", "nats per token") if nll else (points, "accuracy", "points")
    gain = f"{measure} {show(-delta)} {unit} (95 % interval {show(low)} … {show(high)})"
    if report.base_words != BASE_MODEL:
        text = f"compared with {report.base_words}: {gain}. A head trained on the base model alone was not tested."
        return doc.Note("info", (doc.Span(report.adapters[0].name, "name"), f" {text}"))
    better, worse = (high < 0, low > 0) if nll else (low > 0, high < 0)
    mark: doc.Mark = "good" if better else "error" if worse else "unknown"
    verdict = "better" if better else "worse" if worse else "not shown to be better"
    return doc.Note(
        mark, (doc.Span(report.adapters[0].name, "name"), f" is {verdict} than the base model: {gain}")
    )


def answer_blocks(report: EvaluationReport) -> list[doc.Block]:
    """Return counts of truncated and unreadable answers, if any."""
    rows = []
    for row in report.adapters:
        problems = (
            (row.truncated, "inputs truncated (too long)"),
            (row.cut_off, "outputs cut off at max_new_tokens"),
            (row.failed_extractions, "outputs without an extractable answer"),
        )
        parts = [f"{numbers.count(number)} {problem}" for number, problem in problems if number]
        name = report.base_words if row.role == BASE else row.name
        rows += [f"{name}: {', '.join(parts)}"] if parts else []
    return [doc.Heading("Truncated or missing answers"), doc.items(rows)] if rows else []


def caveat_blocks(report: EvaluationReport) -> list[doc.Block]:
    """Return the limits of the result."""
    scope = {
        "correct": "",
        "nll": "No text was generated, so the accuracy of generated answers is unknown. ",
        "agreement": f"{ANY_SCORER} ",
    }[report.compares]
    return [
        doc.Heading("Limits"),
        doc.Paragraph(
            f"{scope}With one training run per side, grade B is the best possible. The margin is valid only if it was"
            " chosen before anyone saw the results."
        ),
    ]


# ---------------------------------------------------------------- dry run


def margin_note(
    examples: int, margin: Fraction, margins: Sequence[ShownMargin], looks: Sequence[int], of: str = ""
) -> doc.Note:
    """Return `smallest_margin_text` as a note of a dry run. of: name of the data set, if there are several."""
    mark: doc.Mark = "good" if _at_assumed_share(margins).margin <= margin else "warning"
    text = smallest_margin_text(examples, margin, margins, looks)
    return doc.Note(
        mark, f"{of}: {text}" if of else text, [f"Answers that change: {typical_discordances()}."]
    )


def smallest_margin_text(
    examples: int, margin: Fraction, margins: Sequence[ShownMargin], looks: Sequence[int]
) -> str:
    """Return the power to rule out a drop of the margin, by the share of answers that change between right and wrong.

    The margins are those of the last look: earlier looks add to the power.
    """
    words, share = f"rule out a drop of {numbers.in_points(float(margin))} points", f"{100 * ASSUMED:g} %"
    smallest = f"the smallest margin is {numbers.in_points(_at_assumed_share(margins).margin)} points"
    counted = f", counting only the last of {len(looks)} looks" if looks else ""
    condition = f"(equally good adapters{counted})"
    enough = [row.discordance for row in margins if row.margin <= margin]
    if not enough:
        return (
            f"{numbers.plural(examples, 'example')} are too few to {words} with 80 % power if {share} of the answers"
            f" change between right and wrong {condition}: {smallest}. Use more examples or a larger margin."
        )
    most = max(enough)
    changes = f"if at most {100 * most:.3g} % of the answers change between right and wrong"
    if most in (0, 1):
        changes = "if no answer changes between right and wrong" if not most else "whatever answers change"
    if most >= ASSUMED:
        able = f"{numbers.plural(examples, 'example')} can {words} with 80 % power {changes}"
    else:
        able = f"{numbers.plural(examples, 'example')} may be too few to {words}: 80 % power only {changes}"
    return f"{able} {condition}. If {share} change, {smallest}."


def _at_assumed_share(margins: Sequence[ShownMargin]) -> ShownMargin:
    return next(row for row in margins if row.discordance == ASSUMED)


# ---------------------------------------------------------------- several data sets


class EvaluationPlan(Artifact):
    """`plan.json` of an evaluation on several data sets: what must hold, fixed before the first answer."""

    repair: ClassVar[str] = "give another --output (an edited plan is not valid)"

    schema_: Literal["gradience.evaluation_plan/1"] = "gradience.evaluation_plan/1"
    reference_sha256: str
    """sha256 of the reference adapter's weights file."""
    reference_config_sha256: str
    candidates: tuple[str, ...]
    """sha256 of the weights file of each candidate."""
    base: str
    sets: tuple[PlannedSet, ...]
    level: Share
    """Chance of any false B: a candidate must hold on every data set, and p-values are adjusted for the number of
    candidates only."""
    changes: tuple[str, ...] = ()
    """Changes to the plan of this folder that were made after the first answers; with any, no grade is above C."""


class JointAdapter(Part):
    """One row: an adapter or the base model, with its grade over all data sets."""

    name: str
    role: RowRole
    grade: grading.Grade | None
    """B: shown on every data set. D: worse on one. X: not evaluated on one. C: otherwise. Null for the reference and
    the base."""
    reason: str
    p_value: grading.Probability | None
    """Largest p-value among the data sets: that of the intersection–union test. Null for a row that is not tested."""
    adjusted_p: grading.Probability | None
    """The same, Holm-adjusted over the candidates."""
    grades: dict[PlainName, grading.Grade]
    """Data set -> grade on it."""


class EvaluationSetsReport(Report):
    """Several adapters of one base model on several data sets, each compared with the first adapter.

    >>> report = EvaluationSetsReport.read("evaluation_sets.json")
    >>> [(row.name, row.grades) for row in report.candidates]
    [('rank4', {'task': 'B', 'general': 'B'}), ('rank1', {'task': 'B', 'general': 'B'})]
    """

    row_field: ClassVar[str] = "adapters"
    repair: ClassVar[str] = "evaluate again: gradience evaluate … --output DIR"
    plots: ClassVar[Plots] = {"frontier": "plots.compared:frontier_plot"}

    schema_: Literal["gradience.evaluation_sets/1"] = "gradience.evaluation_sets/1"
    base: str
    plan: EvaluationPlan
    plan_sha256: str | None
    """sha256 of plan.json; null if nothing was written."""
    adapters: tuple[JointAdapter, ...]
    """Reference, then candidates in the given order, then the base."""
    evaluations: dict[PlainName, EvaluationReport]
    """Data set -> its evaluation, in the order of the plan."""
    run: RunInfo

    @property
    def candidates(self) -> tuple[JointAdapter, ...]:
        """Rows of the candidates."""
        return tuple(row for row in self.adapters if row.role == CANDIDATE)

    def rows_on(self, data_set: str) -> dict[str, EvaluatedAdapter]:
        """Return the results on a data set by the names of the adapters."""
        return {row.name: row for row in self.evaluations[data_set].adapters}

    def blocks(self) -> doc.Document:
        """Return the sections of the report."""
        return [*joint_title(self), *joint_table(self), *joint_caveat(self)]


def joint_title(report: EvaluationSetsReport) -> list[doc.Block]:
    """Return base, data sets, device and warnings."""
    notes = change_warnings(report.plan.changes)
    for name, result in report.evaluations.items():
        notes += [f"{name}: {note}" for note in warnings_of(result)]
    sets = numbers.plural(len(report.plan.sets), "data set")
    title = ("Evaluation of ", doc.Span(report.adapters[0].name, "name"), f" on {sets}")
    facts = [base_fact(report.base, next(iter(report.evaluations.values())).conditions)]
    facts += [
        (planned.name, planned_words(planned, report.evaluations[planned.name].adapters[0].n))
        for planned in report.plan.sets
    ]
    answer = [*joint_notes(report), *base_notes(report)]
    return opening(title, answer, facts, list(dict.fromkeys(notes)))


def joint_table(report: EvaluationSetsReport) -> list[doc.Block]:
    """Return one row for each adapter and a column for each data set, and the legend."""
    first, first_set = report.adapters[0], report.plan.sets[0].name
    one, base = report.rows_on(first_set), report.evaluations[first_set].base_words
    table = doc.table_of(
        report.adapters,
        (doc.Column(), lambda row: name_cell(row, base)),
        (doc.Column("grade", shown=bool(report.candidates)), lambda row: row.grade or ""),
        (doc.Column("rank", ">", drop=2), lambda row: ranks_cell(one[row.name])),
        (doc.Column("saved", ">", drop=3), lambda row: saved_cell(one[row.name])),
        *(column for planned in report.plan.sets for column in _columns_of(report, planned)),
    )
    heading = ("Candidates, compared with ", doc.Span(first.name, "name")) if report.candidates else "Results"
    return [doc.Heading(heading), table, doc.Facts(list(dict.fromkeys(doc.legend_of(table))))]


def _columns_of(
    report: EvaluationSetsReport, planned: PlannedSet
) -> Iterator[tuple[doc.Column, Callable[[JointAdapter], doc.Inline]]]:
    """Yield the columns of a data set: the reference's level, the others' differences with grades, and the bounds."""
    rows, bound = report.rows_on(planned.name), "one-sided bound; compared with the margin"
    level = doc.Column(planned.name, ">", legend=UNITS[planned.compares])
    yield level, lambda row: _set_cell(rows[row.name])
    yield (
        doc.Column("95 % bound", ">", drop=4, legend=bound),
        lambda row: bound_cell(rows[row.name]),
    )


def _set_cell(row: EvaluatedAdapter) -> str:
    return f"{level_or_delta_cell(row)} {row.grade or ''}".strip()


UNITS: Mapping[Compares, str] = {
    "correct": "first row: accuracy; other rows: candidate − reference, in points",
    "nll": "first row: NLL in nats per token; other rows: increase over the reference (positive is worse)",
    "agreement": "first row: answers equal to the reference's; other rows: changed answers, in points",
}
"""Figures in the column of a data set."""


def joint_notes(report: EvaluationSetsReport) -> list[doc.Note]:
    """Return the joint grade of each candidate, its reason and its p-value."""
    number, notes = len(report.candidates), list[doc.Note]()
    adjusted = f", Holm-adjusted for {number} candidates" if number > 1 else ""
    for row in report.candidates:
        largest = (
            ""
            if row.adjusted_p is None
            else f"{numbers.probability(row.adjusted_p)}: the largest p-value of the data sets"
        )
        notes += grading.grade_note(row.name, row.grade, row.reason, [largest + adjusted] if largest else [])
    return notes


def base_notes(report: EvaluationSetsReport) -> Iterator[doc.Note]:
    """Yield the reference's gains and losses on each data set, compared with the base model."""
    for name, result in report.evaluations.items():
        if (gain := gain_over_base(result)) is not None:
            yield doc.Note(gain.mark, (doc.Span(name, "name"), ": ", *doc.spans(gain.text)))


def joint_caveat(report: EvaluationSetsReport) -> list[doc.Block]:
    """Return the limits of the result."""
    return [
        doc.Heading("Limits"),
        doc.Paragraph(
            "With one training run per side, grade B is the best possible. One data set is enough for a D, so testing"
            " several makes a false D more likely. Outputs for other texts may still have changed. The margins are"
            " valid only if they were chosen before anyone saw the answers."
        ),
    ]
