"""Result of a distillation: KL to the original before and after, and which step was kept."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as row_dataclass

from gradience.files.artifact import ROW_CONFIG, Artifact, Float12, Part
from gradience.reports.base.report import Report
from gradience.reports.base.run import RunInfo

Kind = Literal["causal_lm", "seq2seq_lm", "sequence_classification"]


@row_dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class DistillCheck:
    """One look at the rows that decide when to stop."""

    step: int
    """Steps taken before; 0 is the adapter as it was given."""
    kl: Float12
    """KL(teacher ‖ adapter) per scored token, in nats."""


@row_dataclass(frozen=True, slots=True, config=ROW_CONFIG, kw_only=True)
class HeldOutRow:
    """One row that was held out: KL(teacher ‖ adapter) over all its scored tokens, in nats."""

    id: str
    """Digest of what the row says."""
    tokens: int
    before: Float12
    after: Float12


class MeanKl(Part):
    """KL per scored token in nats over rows that were neither trained on nor looked at, with a 95 % interval."""

    kl: Float12
    low: Float12
    high: Float12


class DistillReport(Report):
    """How far a smaller adapter was from its original before and after distillation. Lies beside the distilled adapter.

    >>> report = DistillReport.read("distill_report.json")
    >>> report.improved, report.best_step <= report.steps
    (True, True)
    """

    row_field: ClassVar[str] = "by_row"
    repair: ClassVar[str] = "distill again with `gradience distill`"

    schema_: Literal["gradience.distill/1"] = Field(default="gradience.distill/1", alias="schema")
    adapter_path: str
    adapter_sha256: str
    """Of the weights of the smaller adapter, as it was given."""
    teacher_path: str
    teacher_sha256: str
    output_path: str
    output_sha256: str
    """Of the weights that were written; `adapter_sha256` where nothing improved."""
    base: str
    base_sha256: str
    """Over name, shape, type and some values of each parameter."""
    quantization: str | None
    dtype: str
    device: str
    kind: Kind
    prompts: str
    prompts_sha256: str
    rows: int
    duplicates: int
    """Rows of the file that repeat another one and were left out."""
    training_rows: int
    stopping_rows: int
    """Rows that decide which step is kept; never trained on."""
    held_out_rows: int
    """Rows that before and after are measured on; never trained on, and no step is chosen by them."""
    scored_tokens: int
    """Of the rows held out; one per row for a classifier."""
    given_completions: int
    sampled_completions: int
    """Rows without a completion, for which the teacher wrote one. Both are 0 for a classifier."""
    completion_tokens: int | None
    truncated: int
    """Rows that were too long and lost the beginning of their prompt; its end, if it goes into an encoder."""
    seed: int
    batch_size: int
    max_length: int | None
    lr: float
    planned_steps: int
    steps: int
    """Taken; fewer than planned where several checks in a row found nothing better."""
    best_step: int
    """Whose factors were written; 0 where nothing improved."""
    improved: bool
    """By the rows that decide; if not, what was written is the adapter that was given."""
    teacher_params: int
    trained_params: int
    """The LoRA factors of the smaller adapter. A head, biases and magnitudes stay as they were."""
    before: MeanKl
    after: MeanKl
    """Of the adapter as it was written, in its own storage type."""
    change: MeanKl
    """After − before, paired over rows. Student's interval is wide where a few rows decide; `p_closer` tests it."""
    p_closer: Float12 | None = None
    """One-sided p-value of a paired permutation test: how often a mean change at least as low comes from exchanging
    before and after at random in each row. Above 0.975 it is farther. Null in older files, and if nothing improved."""
    checks: tuple[DistillCheck, ...]
    by_row: tuple[HeldOutRow, ...]
    """What before, after and change are made of."""
    carried_files: tuple[str, ...]
    left_out_files: tuple[str, ...]
    notes: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Notes to read before the figures; absent if there are none."""
    run: RunInfo


class DistillForecast(Artifact):
    """What a distillation would do and need; the base is not loaded."""

    schema_: Literal["gradience.distill_forecast/1"] = Field(
        default="gradience.distill_forecast/1", alias="schema"
    )
    adapter_path: str
    teacher_path: str
    base: str
    kind: Kind
    rows: int
    duplicates: int
    training_rows: int
    stopping_rows: int
    held_out_rows: int
    sampled_completions: int
    """Rows for which the teacher would write a completion."""
    longest: int
    """Tokens of the longest row."""
    batch_size: int
    steps: int
    forward_examples: int
    """Forward passes of an example, if all steps are taken: original and smaller adapter count apart."""
    backward_examples: int
    teacher_params: int
    trained_params: int
    process_bytes: int
    """Python and the libraries; 0 for a GPU."""
    weights_bytes: int
    """Weights of the base."""
    held_bytes: int
    """Factors of both adapters, gradients, the optimiser's moments and the best factors so far, beside the base."""
