"""Several adapters of one base on the same examples: `evaluation.json`, its plan, and a preview of its prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import ClassVar, Literal, Self

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
    items,
    spans,
)
from gradience.reports.base.graded import (
    GRADES,
    Bounds,
    Grade,
    LikelihoodEvidence,
    NextGrade,
    Probability,
)
from gradience.reports.base.numbers import (
    MISSING,
    count,
    in_points,
    memory_parts,
    number_range,
    percent,
    plural,
    probability,
    sig,
)
from gradience.reports.base.report import PlotOf, Plots, Report, compared_plots
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import Role, Share
from gradience.reports.forecast import ScoredExample, scored_facts
from gradience.statistics.table import PairedTable
from gradience.words import listed, noun, points

RowRole = Literal["reference", "candidate", "base"]
REFERENCE: Literal["reference"] = "reference"
CANDIDATE: Literal["candidate"] = "candidate"
BASE: Literal["base"] = "base"


class OutputChange(Part):
    """How far its outputs are from the reference's, whether correct or not."""

    kl_mean: Float12
    """KL(reference ‖ this one) in nats per example: of the labels, or summed over the tokens of the gold response."""
    kl_standard_error: Float12 | None
    flips: int
    """For labels, examples with a different label; else token positions of the gold responses with a different most
    likely token. `flipped_examples` counts examples for every task."""
    flipped_examples: int | None = None
    """Examples with a different label, choice or extracted answer; for `scorer=nll`, examples with a different most
    likely token at one position or more. Null in files from before this was counted."""
    kl_per_token: Float12 | None = None
    """KL per scored token, which `gradience calibrate` predicts; an example of labels has one. Null in older files."""

    @property
    def has_tokens(self) -> bool:
        """True if the KL of an example and of a token are known and differ: labels have one scored token."""
        return self.kl_per_token not in (None, self.kl_mean)


class RecordsFile(Part):
    """A file of records, one line for each example."""

    path: PlainName
    """Inside the folder of the evaluation."""
    sha256: str


class EvaluatedAdapter(Part):
    """One row: an adapter, or the base without one, and how it compares with the reference."""

    name: str
    role: RowRole
    """`base`: the base without an adapter; of a classifier the reference's head on the base's own features."""
    path: str | None
    """Null for the base."""
    sha256: str | None
    """Of its weights file."""
    config_sha256: str | None
    smallest_rank: int | None
    largest_rank: int | None
    lora_params: int | None
    """Null for an adapter that only its engine knows, by name."""
    other_params: int | None
    """Heads and full-weight modules."""
    params_saved: Float12 | None
    """Share of the reference's LoRA parameters; null for the reference and the base."""
    n: int | None = None
    """Examples; null where it could not be evaluated."""
    correct: int | None = None
    """Null as well where likelihoods are compared: no response is correct or not."""
    truncated: int | None = None
    """Examples that were too long and were cut."""
    cut_off: int | None = None
    """Outputs that ended at `max_new_tokens`."""
    failed_extractions: int | None = None
    """Outputs in which no answer was found; they count as wrong."""
    pairs: PairedTable | None = None
    """Against the reference; null for itself, and where likelihoods are compared."""
    likelihood: LikelihoodEvidence | None = None
    """Where likelihoods are compared: those of the given responses."""
    bounds: Bounds | None = None
    """One-sided 95 % bounds on Δ, and the p-value of "it loses the margin or more". Of likelihoods Δ is what the
    log-likelihood per token gains: −ΔNLL."""
    adjusted_p: Probability | None = None
    """Holm's, over all candidates that were evaluated; null for the base: nothing is claimed of it."""
    change: OutputChange | None = None
    grade: Grade | None = None
    """B: supported for these runs. C: neither shown. D: inferior. X: could not be evaluated. One run each gives no A.
    Null for the reference and the base."""
    reason: str = ""
    """The grade in a sentence."""
    next_grade: NextGrade | None = None
    """What B needs, for a C."""
    records: tuple[RecordsFile, ...] = ()
    """Its answers; for free text the scores of the gold responses as well. Empty where none were kept."""


class EvaluationConditions(Part):
    """What decides an answer, beside adapter and examples."""

    engine: str
    """What answered."""
    divergence_engine: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """What measured KL and flips on the gold responses, if another engine answered. Absent otherwise."""
    device: str | None
    """Null, as everything below, if the engine does not say so."""
    threads: int | None
    dtype: str | None
    """Of the base's weights; of a packed base that of its embeddings, norms and head."""
    quantization: str | None
    """How the linear layers of the base are packed; null: they are not."""
    attention: str | None
    batch_size: int
    """Examples that are answered together at most."""
    batch_tokens: int | None = None
    """Tokens of a batch at most; null where a number of examples was given."""
    max_length: int | None
    max_new_tokens: int | None
    versions: dict[str, str]
    batch_invariant: bool | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of vLLM: whether its answers do not depend on what is computed beside them. Absent for other engines."""
    base_fingerprint: str
    """The commit on the hub, or sha256 over the names and hashes of the folder's files."""
    tokenizer_sha256: str | None
    scoring: str | None
    """What decides which answers are correct."""


class EvaluationReport(Report):
    """Several adapters of one base on the same examples, each against the first of them.

    >>> report = EvaluationReport.read("evaluation.json")
    >>> [(row.name, row.correct, row.grade) for row in report.adapters]
    [('my_adapter', 1793, None), ('rank4', 1793, 'B'), ('rank1', 1769, 'B'), ('base', 1152, None)]
    """

    row_field: ClassVar[str] = "adapters"
    repair: ClassVar[str] = "evaluate again: gradience evaluate … --output DIR"
    plots: ClassVar[Plots] = compared_plots("Is each", "Is each")

    schema_: Literal["gradience.evaluation/1"] = Field(default="gradience.evaluation/1", alias="schema")
    base: str
    task: str
    source: dict[str, str]
    """Where the examples come from."""
    role: Role | None
    """Which of the task's examples; null for all rows of a file."""
    examples: int
    examples_sha256: str
    """Over everything in them, in their order."""
    margin: Share
    """The loss that a B excludes: a share of the examples; of likelihoods, nats per token."""
    conditions: EvaluationConditions
    adapters: tuple[EvaluatedAdapter, ...]
    """The reference first, then the candidates as they were given, then the base."""
    notes: tuple[str, ...]
    """What a reader must know before the figures."""
    run: RunInfo

    def blocks(self) -> Document:
        """Return the sections, in the order of the questions that a reader has."""
        return [block for section in SECTIONS for block in section(self)]

    def page_heading(self, heading: Heading) -> Heading:
        """Return which adapters are compared with which, on which task."""
        reference, candidates = self.adapters[0].name, [row.name for row in self.candidates]
        task = (" on ", Span(self.task, "name"))
        if not candidates:
            return Heading(("Evaluation of ", Span(reference, "name"), *task))
        names: list[str | Span] = [plural(len(candidates), "adapter")]
        if len(candidates) <= FEW:
            names = [part for name in candidates for part in (Span(name, "name"), " and ")][:-1]
        return Heading(("Evaluation of ", *names, " against ", Span(reference, "name"), *task))

    def summary(self) -> list[Note] | None:
        """Return the verdict on the candidates; None without any."""
        return _summary(self)

    @property
    def candidates(self) -> tuple[EvaluatedAdapter, ...]:
        """The rows that have a grade."""
        return tuple(row for row in self.adapters if row.role == CANDIDATE)


class ShownMargin(Part):
    """The smallest margin that the examples show with a chance of 80 %, if both adapters are equally good."""

    discordance: Float12
    """Share of the examples on which exactly one of the two is correct: assumed."""
    margin: Float12


class EvaluationForecast(Report):
    """What an evaluation would do, cost and be able to show; nothing is loaded."""

    row_field: ClassVar[str] = "margins"
    plots: ClassVar[Plots] = {
        "margins": PlotOf("sizes:margins_plot", ("What can these",)),
        "memory": PlotOf("sizes:memory_plot"),
    }

    schema_: Literal["gradience.evaluation_forecast/2"] = Field(
        default="gradience.evaluation_forecast/2", alias="schema"
    )
    base: str
    task: str
    adapters: tuple[str, ...]
    """Names, the reference first."""
    with_base: bool
    examples: int
    margin: Share
    margins: tuple[ShownMargin, ...]
    """Empty where likelihoods are compared: how much their differences spread is not known before."""
    weights_bytes: int | None
    """The base in its precision; null where the shape of the model is not known here."""
    adapter_bytes: int
    """The largest two adapters in float32: no more are loaded at once."""
    batch_bytes: int | None
    """The largest step of a batch, and its cache of keys and values."""
    process_bytes: int | None
    """Python, PyTorch and their libraries, as measured in the process that made the forecast; 0 on a GPU."""
    assumptions: tuple[str, ...]
    notes: tuple[str, ...]

    def blocks(self) -> Document:
        """Return the plan, what the examples can show, and what the estimates rest on."""
        facts: list[tuple[str, Inline]] = [
            ("base", Span(self.base, "name")),
            ("task", Span(self.task, "name")),
            ("reference", Span(self.adapters[0], "name")),
            *(("candidate", Span(name, "name")) for name in self.adapters[1:]),
            *([("also", "the base alone")] if self.with_base else []),
            ("examples", count(self.examples)),
            *memory_facts(self.weights_bytes, self.adapter_bytes, self.batch_bytes, self.process_bytes),
        ]
        blocks: list[Block] = [Heading("Dry run: no model was loaded", level=1), Facts(facts)]
        blocks += [Notes([Note("warning", note) for note in self.notes])] if self.notes else []
        if len(self.adapters) > 1 and self.margins:
            blocks += margin_blocks(self.margin, self.margins)
        return [*blocks, Heading("Assumptions"), items(self.assumptions)] if self.assumptions else blocks

    def page_heading(self, heading: Heading) -> Heading:
        """Return which adapters are to be evaluated, on which task."""
        few = len(self.adapters) <= FEW
        name = self.adapters[-1] if few else plural(len(self.adapters), "adapter")
        return Heading(
            ("Plan of an evaluation: ", Span(name, "name"), " on ", Span(self.task, "name")),
            aside=heading.text,
        )


class EvaluationPreview(Report):
    """What the first examples look like to the model, and what is scored in them; no model is loaded."""

    row_field: ClassVar[str] = "scored"

    schema_: Literal["gradience.evaluation_preview/1"] = Field(
        default="gradience.evaluation_preview/1", alias="schema"
    )
    base: str
    task: str
    scored_by: str
    """Which of the task's ways of scoring is chosen; empty where the task has one."""
    examples: int
    scored: tuple[ScoredExample, ...]
    """The first three."""
    notes: tuple[str, ...]

    def blocks(self) -> Document:
        """Return the first examples as the model sees them, and what is scored in them."""
        facts: list[tuple[str, Inline]] = [
            ("base", Span(self.base, "name")),
            ("task", Span(self.task, "name")),
            ("examples", count(self.examples)),
        ]
        heading = Heading("No model is loaded: this is what it would see.", level=1)
        blocks: list[Block] = [heading, Facts(facts)]
        blocks += [Notes([Note("warning", note) for note in self.notes])] if self.notes else []
        if not self.scored:
            return blocks
        legend = (
            "Special tokens are spelt out, a line break is \\n. response: the gold one, on which likelihood and KL are"
            " measured; scored: what an output is compared with; extracted: what the scorer finds in the gold response."
        )
        scored = Facts(scored_facts(self.scored, self.scored_by))
        return [*blocks, Heading("First examples"), scored, Paragraph(legend)]

    def page_heading(self, heading: Heading) -> Heading:
        """Return whose prompts these are."""
        return Heading(
            ("What ", Span(self.base, "name"), " would see of ", Span(self.task, "name")), aside=heading.text
        )

    def without_texts(self) -> Self:
        """Return the preview without its examples."""
        return self.model_copy(update={"scored": ()})


class KeptFile(Part):
    """What one file of records depends on, and what it was when it was finished."""

    key: str
    """sha256 over everything that decides its records."""
    sha256: str | None
    """Of the finished file; null while records are added."""


class KeptBudget(Part):
    """How large batches are where nothing was said: found once, and used again when the evaluation resumes."""

    key: str
    """sha256 over base, precision and device."""
    tokens: int
    """Of a batch at most."""


class KeptRecords(Artifact):
    """`records/manifest.json`: which records may be used again."""

    schema_: Literal["gradience.kept_records/1"] = Field(default="gradience.kept_records/1", alias="schema")
    files: dict[PlainName, KeptFile]
    """Name in the folder -> what it depends on."""
    budget: KeptBudget | None = None
    """Null where a number of examples was given."""


NAMED = 3
"""Candidates that are named of those without a verdict."""
FEW = 2
"""Adapters that a title names."""
ASSUMED = 0.05
"""The discordance of the one margin that is named before a run."""
ONE_TRAINING = (
    "This is about these adapters. Whether another training run would come out the same is not shown."
)


# ---------------------------------------------------------------- the evaluation


def title_blocks(report: EvaluationReport) -> list[Block]:
    """Return base, examples, device, and what a reader must know first."""
    conditions = report.conditions
    weights = conditions.dtype or "precision unknown"
    if conditions.quantization is not None:
        rest = f"embeddings, norms and head in {conditions.dtype}"
        weights = f"linear layers in {conditions.quantization}, {rest}"
    which = {None: " (rows of a file)", "confirm": " (test)"}.get(report.role, f" ({report.role})")
    facts: list[tuple[str, Inline]] = [
        ("base", (Span(report.base, "name"), Span(f"  {weights}", "dim"))),
        ("examples", (f"{count(report.examples)} of ", Span(report.task, "name"), which)),
        ("device", device_of(conditions)),
    ]
    if conditions.engine != "transformers":
        version = conditions.versions.get(conditions.engine, "")
        varies = ", not batch-invariant" if conditions.batch_invariant is False else ""
        other = conditions.divergence_engine
        scores = Span("" if other is None else f"; KL and flips by {other}", "dim")
        facts.append(("engine", (f"{conditions.engine} {version}{varies}".strip(), scores)))
    blocks: list[Block] = [Heading("Evaluation", level=1), Facts(facts)]
    return [*blocks, Notes([Note("warning", note) for note in report.notes])] if report.notes else blocks


def device_of(conditions: EvaluationConditions) -> Inline:
    """Return the device, its threads where it is a processor, and the batches."""
    device, threads = conditions.device or "unknown", ""
    if device.startswith("cpu") and conditions.threads is not None:
        threads = f", {plural(conditions.threads, 'thread')}"
    batches = f"batches of {conditions.batch_size}"
    if conditions.batch_tokens is not None:
        largest = plural(conditions.batch_size, "example")
        batches = f"batches of up to {count(conditions.batch_tokens)} tokens ({largest})"
    return (device, Span(f"{threads}, {batches}", "dim"))


def table_blocks(report: EvaluationReport) -> list[Block]:
    """Return one row for each adapter, the grade of each candidate in a sentence, and what the columns are."""
    reference = report.adapters[0]
    tokens = any(row.change is not None and row.change.has_tokens for row in report.adapters)
    by_likelihood = reference.likelihood is not None
    measures = (
        [Column("NLL", ">"), Column("ΔNLL", ">")]
        if by_likelihood
        else [
            Column("correct", ">"),
            Column("only ref", ">", drop=6),
            Column("only it", ">", drop=6),
            Column("Δ", ">"),
        ]
    )
    columns = [
        Column(),
        Column("rank", ">", drop=3),
        Column("saved", ">", drop=4),
        *measures,
        Column("95 % interval", ">"),
        Column("KL", ">", drop=2),
        *([Column("KL/token", ">", drop=2 if by_likelihood else 5)] if tokens else []),
        Column("flips", ">", drop=1),
        Column("grade", ">"),
    ]
    name = Span(reference.name, "name")
    heading = Heading("How likely are the responses?" if by_likelihood else "How many are correct?")
    if report.candidates:
        asked = "Does each find the responses as likely as " if by_likelihood else "Is each as good as "
        heading = Heading((asked, name, "?"))
    cells = _likelihood_cells if by_likelihood else _cells
    grades = grade_notes(report)
    blocks: list[Block] = [heading, Table(columns, [cells(row, tokens) for row in report.adapters])]
    blocks += [Notes(grades)] if grades else []
    legend = _likelihood_legend(report, tokens) if by_likelihood else _legend(report, tokens)
    return [*blocks, Facts(legend)] if legend else blocks


def _size_cells(row: EvaluatedAdapter) -> tuple[Inline, ...]:
    """Name, ranks and saving."""
    label: Inline = "base alone" if row.role == BASE else Span(row.name, "name")
    ranks = MISSING if row.smallest_rank is None else number_range([row.smallest_rank, row.largest_rank or 0])
    return (label, ranks, "" if row.params_saved is None else percent(row.params_saved))


def correct_cell(row: EvaluatedAdapter) -> str:
    """Return `1,793  82.0 %`."""
    if row.n is None or row.correct is None:
        return MISSING
    return f"{count(row.correct)}  {100 * row.correct / row.n:.1f} %"


def _cells(row: EvaluatedAdapter, tokens: bool) -> Sequence[Inline]:
    first = (*_size_cells(row), correct_cell(row))
    pairs = row.pairs
    if pairs is None:
        return (*first, *[""] * (6 + tokens), row.grade or "")
    return (
        *first,
        count(pairs.n10),
        count(pairs.n01),
        points(pairs.delta),
        f"{points(pairs.low)} … {points(pairs.high)}",
        *change_cells(row.change, tokens),
        row.grade or "",
    )


def _likelihood_cells(row: EvaluatedAdapter, tokens: bool) -> Sequence[Inline]:
    first, evidence = _size_cells(row), row.likelihood
    if evidence is None or evidence.delta is None:
        nll = MISSING if evidence is None else f"{evidence.nll:.4f}"
        return (*first, nll, *[""] * (4 + tokens), row.grade or "")
    known = evidence.low is not None and evidence.high is not None
    return (
        *first,
        f"{evidence.nll:.4f}",
        _nats(evidence.delta),
        f"{_nats(evidence.low or 0.0)} … {_nats(evidence.high or 0.0)}" if known else MISSING,
        *change_cells(row.change, tokens),
        row.grade or "",
    )


def change_cells(change: OutputChange | None, tokens: bool) -> Sequence[str]:
    """Return the cells of KL, KL per token if `tokens`, and flips."""
    if change is None:
        return [MISSING] * (2 + tokens)
    per_token = MISSING if change.kl_per_token is None else sig(change.kl_per_token, 2)
    flips = MISSING if change.flipped_examples is None else count(change.flipped_examples)
    return (sig(change.kl_mean, 2), *([per_token] if tokens else []), flips)


def _nats(value: float) -> str:
    """`+0.0012`, `−0.3400`; 0 without a sign."""
    text = f"{abs(value):.4f}"
    return text if not float(text) else f"{'−' if value < 0 else '+'}{text}"


def _legend(report: EvaluationReport, tokens: bool) -> list[tuple[str, Inline]]:
    """What the columns are; and what the base of a classifier is."""
    if len(report.adapters) < 2:
        return []
    legend: list[tuple[str, Inline]] = [
        ("Δ", "correct answers beyond the reference's, in points, with Tango's 95 % interval"),
        ("only ref", "only the reference is correct; only it: only this one is"),
        ("KL", "divergence of its outputs from the reference's, in nats per example: 0 is no change"),
        ("flips", "examples whose output changes, whether correct or not"),
    ]
    if tokens:
        per_token = "the same per token of the gold responses, as `gradience calibrate` predicts it"
        legend.append(("KL/token", per_token))
    with_base = any(row.role == BASE for row in report.adapters)
    if with_base and report.conditions.max_new_tokens is None and (report.adapters[0].other_params or 0) > 0:
        name = Span(report.adapters[0].name, "name")
        legend.append(("base alone", ("the base's features under the head of ", name)))
    return legend


def _likelihood_legend(report: EvaluationReport, tokens: bool) -> list[tuple[str, Inline]]:
    likelihood = report.adapters[0].likelihood
    assert likelihood is not None
    legend: list[tuple[str, Inline]] = [
        ("NLL", f"negative log-likelihood in nats per token, of {count(likelihood.tokens)} tokens")
    ]
    if len(report.adapters) > 1:
        per_token = ("KL/token", "the same per token, as `gradience calibrate` predicts it")
        legend += [
            ("ΔNLL", "NLL beyond the reference's, with Student's 95 % interval over examples"),
            ("KL", "divergence of its predictions from the reference's, in nats per response"),
            *([per_token] if tokens else []),
            ("flips", "responses with a different most likely token at one position or more"),
        ]
    return legend


def grade_notes(report: EvaluationReport) -> list[Note]:
    """Return the grade of each candidate in a sentence, its p-value, and what a C needs for a B."""
    tested = sum(row.adjusted_p is not None for row in report.candidates)
    adjusted = f", adjusted for {tested} candidates (Holm)" if tested > 1 else ""
    notes = []
    for row in report.candidates:
        if row.grade is None:
            continue
        details: list[Inline] = []
        if row.adjusted_p is not None:
            details.append(f"{probability(row.adjusted_p)} against a loss of the margin{adjusted}")
        if row.next_grade is not None and row.next_grade.examples is None:
            details.append("if its loss is what it seems, no number of examples shows this margin")
        elif row.next_grade is not None:
            loses = row.pairs is not None and row.pairs.delta < 0
            if row.pairs is None and row.likelihood is not None:
                loses = (row.likelihood.delta or 0.0) > 0
            true = "its loss is what it seems" if loses else "both are equally good"
            number = count(row.next_grade.examples or 0)
            details.append(f"a B needs about {number} examples, for a chance of 80 % if {true}")
        mark, _ = GRADES[row.grade]
        notes.append(Note(mark, (Span(row.name, "name"), f": {row.grade}, {row.reason}"), details))
    return notes


def base_blocks(report: EvaluationReport) -> list[Block]:
    """Return whether the reference does anything, where the base was evaluated."""
    note = _gain_over_base(report)
    if note is None:
        return []
    return [Heading(("Does ", Span(report.adapters[0].name, "name"), " do anything?")), Notes([note])]


def _gain_over_base(report: EvaluationReport) -> Note | None:
    base = next((row for row in report.adapters if row.role == BASE), None)
    if base is None:
        return None
    if base.likelihood is not None:
        delta, low, high = base.likelihood.delta, base.likelihood.low, base.likelihood.high
        if delta is None or low is None or high is None:
            return None
        interval = (
            f"{_nats(-delta)} nats per token beside the base alone"
            f" (95 % interval {_nats(-high)} … {_nats(-low)})"
        )
        better = f"yes: it finds the responses likelier, NLL {_nats(delta)}: {interval}"
        worse = f"it finds the responses less likely: {interval}"
        unknown = f"its predictions differ, and likelier responses are not shown: {interval}"
        return _decided(low > 0, high < 0, better, worse, unknown)
    if base.pairs is None:
        return None
    gain, low, high = -base.pairs.delta, -base.pairs.high, -base.pairs.low
    interval = f"{points(gain)} points over the base alone (95 % interval {points(low)} … {points(high)})"
    unknown = f"its outputs differ, and more correct answers are not shown: {interval}"
    return _decided(low > 0, high < 0, f"yes: {interval}", f"it makes the base worse: {interval}", unknown)


def _decided(is_better: bool, is_worse: bool, better: str, worse: str, unknown: str) -> Note:
    if is_better:
        return Note("good", better)
    return Note("error", worse) if is_worse else Note("unknown", unknown)


def answer_blocks(report: EvaluationReport) -> list[Block]:
    """Return what went wrong with answers, where something did."""
    rows = []
    for row in report.adapters:
        problems = (
            (row.truncated, "cut because they were too long"),
            (row.cut_off, "ended at the limit of new tokens"),
            (row.failed_extractions, "without an answer in the output"),
        )
        parts = [f"{count(number)} {problem}" for number, problem in problems if number]
        rows += [f"{row.name}: {', '.join(parts)}"] if parts else []
    return [Heading("Which examples were not answered whole?"), items(rows)] if rows else []


def caveat_blocks(report: EvaluationReport) -> list[Block]:
    """Return what one evaluation never shows."""
    if report.adapters[0].likelihood is None:
        generated, seen = "", "these answers"
        margin = f"{points(report.margin).removeprefix('+')} points"
    else:
        nats = float(report.margin)
        generated = "Whether what it writes itself is correct: nothing was generated. "
        margin = f"{nats:g} nats per token: a perplexity {100 * math.expm1(nats):.1f} % higher"
        seen = "these figures"
    return [
        Heading("What does this not show?"),
        Paragraph(
            f"{generated}Whether another training run would come out the same: one adapter each gives at most grade B."
            f" And the margin ({margin}) counts only if it was chosen before anybody saw {seen}."
        ),
    ]


SECTIONS: tuple[Callable[[EvaluationReport], list[Block]], ...] = (
    title_blocks,
    table_blocks,
    base_blocks,
    answer_blocks,
    caveat_blocks,
)
VERDICTS: tuple[tuple[Grade, Mark, str], ...] = (
    ("C", "unknown", "neither shown to be as good nor to be worse"),
    ("D", "warning", "shown to be worse than the margin allows"),
    ("X", "warning", "not to be compared"),
)


def _summary(report: EvaluationReport) -> list[Note] | None:
    """The smallest that is as good, the verdicts on the others, and whether the reference does anything."""
    graded = [row for row in report.candidates if row.grade is not None]
    if not graded:
        return None
    notes: list[Note] = []
    good = [row for row in graded if row.grade in ("A", "B")]
    best = max(good, key=lambda row: row.params_saved or 0.0, default=None)
    if best is not None:
        which = " is the smallest that is as good" if len(graded) > 1 else " is as good"
        saved = best.params_saved
        fewer = "" if saved is None else f", with {percent(saved)} fewer LoRA parameters"
        others = [row.name for row in good if row is not best]
        also = [("As good: ", Span(listed(others, NAMED), "name"))] if others else []
        text = (Span(best.name, "name"), f"{which}{fewer}: {best.grade}, {best.reason}")
        notes += [Note("good", text, also), Note("info", ONE_TRAINING)]
    for grade, mark, words in VERDICTS:
        rows = [row for row in graded if row.grade == grade]
        if rows:
            why = (
                rows[0].reason.removeprefix("neither shown: ").removeprefix("inferior: ")
            )  # `words` say that
            names = Span(listed([row.name for row in rows], NAMED), "name")
            reason = f": {why}" if len(rows) == 1 else ""
            notes.append(Note(mark, (names, f" {noun(len(rows), 'is', 'are')} {words}{reason}")))
    gain = _gain_over_base(report)
    if gain is not None and gain.mark != "good":  # to be as good as one that does nothing is worth nothing
        notes.append(Note(gain.mark, (Span(report.adapters[0].name, "name"), ": ", *spans(gain.text))))
    return notes


# ---------------------------------------------------------------- before it


def memory_facts(
    weights: int | None, adapters: int, batch: int | None, process: int | None
) -> list[tuple[str, Inline]]:
    """Return the memory that an evaluation takes, and its parts; nothing where a part is not known."""
    if weights is None or batch is None:
        return []
    parts = {
        "base": weights,
        "adapters": adapters,
        "one batch": batch,
        "Python and libraries": process or 0,
    }
    return [("memory", memory_parts(parts))]


def margin_blocks(margin: Fraction, margins: Sequence[ShownMargin]) -> list[Block]:
    """Return the smallest margin that the examples show, for several discordances."""
    columns = [
        Column("exactly one is correct on", ">"),
        Column("smallest margin, points", ">"),
        Column(f"{in_points(float(margin))} points?"),
    ]
    rows = [
        (percent(row.discordance), in_points(row.margin), "yes" if row.margin <= float(margin) else "no")
        for row in margins
    ]
    legend = (
        "With a chance of 80 %, if both are equally good. A truncation that keeps most of the energy often differs on 1"
        " to 5 % of the examples, a retrained adapter on 10 to 20 %."
    )
    return [Heading("What can these examples show?"), Table(columns, rows), Paragraph(legend)]


def showable(examples: int, margins: Sequence[ShownMargin]) -> str:
    """Return, for one line before a run, the margin that its examples can show."""
    assumed = next(row for row in margins if row.discordance == ASSUMED)
    return (
        f"{plural(examples, 'example')} can show a margin of {in_points(assumed.margin)} points where exactly one is"
        f" correct on {percent(ASSUMED)} of them (--dry-run says more)"
    )
