"""Compare two adapters on the same examples, using only their records. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gradience.errors import UsageError
from gradience.files.records import ChoiceRecord, ClassificationRecord, ExamplesRun, GenerationRecord, Record
from gradience.statistics.table import PairedTable

T = TypeVar("T", bound=Record)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Adapter B against adapter A on the same examples; None for what this kind of records does not have.

    Scores have KL and flips only if A was B's reference.
    """

    table: PairedTable
    flips: int | None
    """Examples with a different predicted label or choice, a different extracted answer (none counts as an answer), or,
    for scores, a different most likely token at one or more positions."""
    kl_per_example: float | None
    """Mean over examples of KL(A ‖ B) in nats: of the labels, or summed over the tokens of a response."""
    kl_per_example_standard_error: float | None
    """Sample standard deviation over examples, divided by √n; None for a single example."""


def diverge(a: tuple[ExamplesRun, Sequence[T]], b: tuple[ExamplesRun, Sequence[T]]) -> Divergence:
    """Count the changes from adapter A to adapter B.

    Raises UsageError (`not-paired`) when the two were not evaluated on the same examples in the same way.
    """
    (run_a, records_a), (run_b, records_b) = a, b
    same_examples = [_example(r) for r in records_a] == [_example(r) for r in records_b]
    if not same_examples or not run_a.same_run_as(run_b):
        raise UsageError(
            f"{run_a.adapter} and {run_b.adapter} cannot be compared:"
            f" {'their settings' if same_examples else 'their examples'} differ",
            code="not-paired",
            hint="evaluate both again on the same examples, with the same base, batch size, dtype, threads and"
            " versions",
        )
    rows: list[tuple[Any, Any]] = list(zip(records_a, records_b, strict=True))
    flips = None
    kl: NDArray[np.float64] | None = None
    if run_a.kind == "scores":
        against_a = (run_b.reference, run_b.reference_sha256) == (run_a.adapter, run_a.adapter_sha256)
        measured = all(y.kl is not None and y.flips is not None for _, y in rows)
        if run_b.reference is not None and against_a and measured:
            flips, kl = sum(bool(y.flips) for _, y in rows), np.array([y.kl for _, y in rows])
    elif run_a.kind == "generation":
        flips = sum(x.extracted != y.extracted for x, y in rows)
    else:
        flips = sum(x.predicted != y.predicted for x, y in rows)
        if run_a.kind == "classification":
            kl = kl_divergence(np.array([x.logits for x, _ in rows]), np.array([y.logits for _, y in rows]))
    return Divergence(
        table=PairedTable.of((x.correct for x, _ in rows), (y.correct for _, y in rows)),
        flips=flips,
        kl_per_example=None if kl is None else float(kl.mean()),
        kl_per_example_standard_error=None
        if kl is None or len(kl) < 2
        else float(kl.std(ddof=1) / np.sqrt(len(kl))),
    )


def _example(record: Record) -> tuple[str | int, ...]:
    """Return the fields that are equal in all records of an example."""
    if isinstance(record, ClassificationRecord):
        return record.id, record.text_sha256, record.label
    if isinstance(record, GenerationRecord):
        return record.id, record.prompt_sha256, record.answer
    if isinstance(record, ChoiceRecord):
        return record.id, record.prompt_sha256, record.choices_sha256, record.label
    return record.id, record.prompt_sha256, record.response_sha256


def kl_divergence(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """KL(softmax(a) ‖ softmax(b)) of each row, in nats: (examples, labels) twice -> (examples,), float64."""
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    divergence = (np.exp(log_a) * (log_a - log_b)).sum(axis=1)
    return np.asarray(np.maximum(divergence, 0.0))  # rounding may leave it below 0


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
