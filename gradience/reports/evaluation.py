"""`evaluation.json`: several adapters of one base on the same examples, each against the first of them."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from gradience.files.artifact import Artifact, Float12, Part
from gradience.files.shared_names import PlainName
from gradience.reports.base.graded import (
    Bounds,
    Grade,
    LikelihoodEvidence,
    NextGrade,
    Probability,
)
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo
from gradience.reports.bench_plan import Role, Share
from gradience.reports.forecast import ScoredExample
from gradience.statistics.table import PairedTable

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
