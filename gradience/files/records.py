"""`*.records.jsonl`: one line for every example that was evaluated, below one line that says how.

Scores are counts over these lines, so that they can be recounted (`count`). Two files may be compared example
by example only when their headers agree on everything but the adapter (`ExamplesRun.same_run_as`).
"""

import base64
import binascii
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, Self, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from gradience.errors import InputError
from gradience.files.artifact import Float12, Part, absent_at, artifact_row, interruptible
from gradience.files.whole import write_whole
from gradience.reading import MAX_DATA_BYTES, open_stream

SCHEMA = "gradience.records/1"

RecordKind = Literal["classification", "generation", "choices", "scores"]
StopReason = Literal["eos", "stop_string", "length"]


class ExamplesRun(Part):
    """The first line: run settings that can affect answers."""

    schema_: Literal["gradience.records/1"] = "gradience.records/1"
    """Name and version of the format."""
    kind: RecordKind
    """Kind of the records that follow."""
    adapter: str | None
    """Name of the adapter in the evaluation; null for the base model."""
    adapter_sha256: str | None
    """Digest of its weights file."""
    adapter_config_sha256: str | None
    """Digest of its config file, which determines the scale."""
    lora: bool = True
    """False: only the adapter's head, on the base model's features (ΔW = 0)."""
    reference: str | None = None
    """Kind `scores`: the adapter that KL and flips are measured against."""
    reference_sha256: str | None = None
    """Digest of the reference's weights file."""
    engine: str = "transformers"
    """Engine that ran the model; absent in files of earlier versions."""
    base: str
    """Name or folder of the base model, as it was loaded. Keys below are null if the engine does not report them."""
    base_sha256: str | None
    """Digest of the name, shape, dtype and 16 values of each parameter of the base, without its head."""
    tokenizer_sha256: str | None
    """Digest of the tokenizer's vocabulary, rules and special tokens."""
    quantization: str | None = None
    """Quantization of the base weights, such as `bitsandbytes nf4`."""
    dtype: str | None
    """Torch dtype of the base; for a quantized base, of its embeddings, norms and head. LoRA factors are computed in
    float32 unless the base is float64; in vLLM, in the base's dtype."""
    attention: str | None
    """Attention implementation, as transformers names it."""
    device: str | None
    """GPU model, or instruction set of the CPU."""
    threads: int | None
    """CPU threads."""
    versions: dict[str, str]
    """Versions of gradience and of the engine's libraries: torch, transformers, peft, tokenizers, vllm."""
    batch_invariant: bool | None = absent_at(None)
    """vLLM only: answers do not depend on the other requests in the batch. Absent for other engines."""
    batch_size: int
    """Maximum examples per batch; for multiple choice, maximum responses."""
    batch_tokens: int | None = None
    """Largest number of tokens in a batch, including padding and generated tokens, unless a single example
    exceeds it; null if a number of examples was given.
    """
    looks: tuple[int, ...] = absent_at(())
    """Numbers of examples at several looks; examples of different looks share no batch. Absent for a single look."""
    max_length: int | None
    """Maximum tokens of an example, including its answer; longer ones are truncated. Null: no known limit."""
    max_new_tokens: int | None = None
    """Kind `generation`: maximum tokens of an output."""
    stop: tuple[str, ...] = ()
    """Kind `generation`: stop strings; an output ends before the first one."""
    filters: tuple[str, ...] = ()
    """Kind `generation`: names of the filters that extract the answer. The first decides."""
    scoring: str | None = None
    """Version of the scoring rule: a task's scoring version, or the digest of a user's own code."""
    near_tie: Float12 | None = absent_at(None)
    """Tolerance for reusing the reference's output: one forward pass checks it, and generation starts at the first
    position where the two largest logits differ by at most this, or the top token differs. Absent if every output was
    generated in full."""
    examples_sha256: str
    """Digest of the examples, in order."""
    n: int
    """Number of examples that follow."""

    def same_run_as(self, other: Self) -> bool:
        """Return True if the two differ only in the adapter, or in one of them following the other."""
        adapter = {"adapter", "adapter_sha256", "adapter_config_sha256", "lora", "near_tie"}
        return self.model_dump(exclude=adapter) == other.model_dump(exclude=adapter)


@artifact_row
class ClassificationRecord:
    """A text and its predicted label."""

    id: str
    """Example id."""
    text_sha256: str
    """Digest of the text exactly as it was given to the tokenizer; a pair is joined by U+0000."""
    label: int
    """Correct label."""
    predicted: int
    """Label with the largest logit; the first one in a tie."""
    correct: bool
    """True if the predicted label is the gold label."""
    logits: tuple[Float12, ...]
    """Logit of each label."""
    truncated: bool
    """True if the text was longer than `max_length` tokens."""


@artifact_row
class GenerationRecord:
    """A prompt and its output."""

    id: str
    """Example id."""
    prompt_sha256: str
    """Digest of the prompt exactly as it was given to the tokenizer."""
    answer: str
    """The gold answer."""
    output: str
    """Generated text, without the end token and up to the first stop string."""
    n_tokens: int
    """Generated tokens, including the end token or the stop string."""
    stopped_by: StopReason
    """`length`: cut off at `max_new_tokens`."""
    answers: dict[str, str | None]
    """Answer that each filter extracts from the output; null if it finds none."""
    extracted: str | None
    """Answer found by the first filter."""
    correct: bool
    """True if the extracted answer equals the gold answer, by the task's comparison."""
    truncated: bool
    """True if the prompt was too long and was truncated: at its beginning, or at its end for an
    encoder–decoder.
    """


@artifact_row
class ChoiceRecord:
    """A prompt, and the log-likelihood of each choice."""

    id: str
    """Example id."""
    prompt_sha256: str
    """Digest of the prompt."""
    choices_sha256: str
    """Digest of the choices, including leading spaces."""
    label: int
    """Index of the correct choice."""
    loglikelihoods: tuple[Float12, ...]
    """Log-likelihood of each choice after the prompt, summed over its tokens without an end token, in nats."""
    characters: tuple[int, ...]
    """Characters in each choice, without a leading space."""
    predictions: dict[str, int]
    """Chosen index by selection rule: `sum` takes the largest log-likelihood, `per_character` the largest per
    character of the choice; the first one in a tie.
    """
    predicted: int
    """Index chosen by the rule that `scoring` names."""
    correct: bool
    """True if the predicted choice is the correct one."""
    truncated: bool
    """True if the prompt was too long for one of the choices and was truncated."""


@artifact_row
class ScoreRecord:
    """A prompt with its gold response, and the log-likelihood of the response (teacher forcing)."""

    id: str
    """Example id."""
    prompt_sha256: str
    """Digest of the prompt."""
    response_sha256: str
    """Digest of the response, including a leading space."""
    loglikelihood: Float12
    """Log-likelihood of the response, summed over its tokens and, if it counts, the end token, in nats."""
    n_tokens: int
    """Number of tokens in that sum."""
    exact: bool
    """True if every token is the most likely one."""
    kl: Float12 | None = None
    """KL(reference ‖ adapter) summed over the same positions, in nats; null without a reference."""
    flips: int | None = None
    """Positions with a different most likely token; null without a reference."""
    truncated: bool
    """True if the prompt was too long and was truncated: at its beginning, or at its end for an
    encoder–decoder.
    """

    @property
    def correct(self) -> bool:
        """Alias of `exact`, so that every kind of record has it."""
        return self.exact


Record = ClassificationRecord | GenerationRecord | ChoiceRecord | ScoreRecord
R = TypeVar("R", bound=Record)

RECORD_TYPES: Mapping[RecordKind, type[Record]] = {
    "classification": ClassificationRecord,
    "generation": GenerationRecord,
    "choices": ChoiceRecord,
    "scores": ScoreRecord,
}
_ADAPTERS: Mapping[type[Record], TypeAdapter[Any]] = {cls: TypeAdapter(cls) for cls in RECORD_TYPES.values()}
MAX_LINE = 2**25
"""Bytes of a record: an output and its gold answer, of some million characters each."""
MAX_LISTS = 100_000
"""Lists in a record, which takes two."""
SHARED = ("id", "text_sha256", "prompt_sha256", "response_sha256", "choices_sha256")
"""Texts that the records of all adapters of an evaluation share: each is in memory once."""


class Evaluation(NamedTuple, Generic[R]):
    """Content of a records file, in the order of the examples."""

    run: ExamplesRun
    records: tuple[R, ...]


def first(evaluation: Evaluation[R], n: int, like: ExamplesRun | None = None) -> Evaluation[R]:
    """Return the first `n` records. like: header of others on the same examples, which say what these are."""
    run, records = evaluation
    if len(records) == n and like is None:
        return evaluation
    size: dict[str, Any] = {"n": n}
    if like is not None:
        size |= {name: getattr(like, name) for name in ("examples_sha256", "batch_size", "looks")}
    return Evaluation(run.model_copy(update=size), records[:n])


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts over the records; 0 for a quantity that the kind of record does not have."""

    n: int
    correct: int
    cut_off: int
    """Outputs that ended at `max_new_tokens`."""
    failed_extractions: int
    """Outputs in which the first filter found no answer."""
    truncated: int
    """Examples that were too long and were truncated."""

    @property
    def accuracy(self) -> float:
        """The share of correct answers (NaN for no examples)."""
        return self.correct / self.n if self.n else float("nan")


def count(records: Iterable[Record]) -> Counts:
    """Return the counts over records of any kind."""
    rows = list(records)
    outputs = [row for row in rows if isinstance(row, GenerationRecord)]
    return Counts(
        n=len(rows),
        correct=sum(row.correct for row in rows),
        cut_off=sum(row.stopped_by == "length" for row in outputs),
        failed_extractions=sum(row.extracted is None for row in outputs),
        truncated=sum(row.truncated for row in rows),
    )


def write_records(path: Path, run: ExamplesRun, records: Sequence[Record]) -> Path:
    """Write header and records to `path`, whole or not at all. Raises OutputError (`write-failed`)."""
    return write_whole(path, [line(run), *(line(record) for record in records)])


def line(part: ExamplesRun | Record) -> bytes:
    """One line of the file, its end included."""
    with interruptible():
        if isinstance(part, Part):
            return part.model_dump_json().encode() + b"\n"
        return _ADAPTERS[type(part)].dump_json(part) + b"\n"


def parsed_record(kind: RecordKind, row: bytes) -> Record:
    """The record in a line. Raises ValueError (pydantic's ValidationError among them)."""
    values = _parsed(row)
    if isinstance(values, dict):
        for name in SHARED:
            if isinstance(values.get(name), str):
                values[name] = sys.intern(values[name])
    return _ADAPTERS[RECORD_TYPES[kind]].validate_python(values)  # type: ignore[no-any-return]


def read_records(path: str | os.PathLike[str]) -> Evaluation[Any]:
    """Read header and records of the file at `path`.

    Raises InputError: `artifact-invalid` if a line is invalid, or if the number of records differs from the header's;
    what `open_stream` raises.
    """
    path = Path(path)
    number = 0
    records: list[Any] = []
    run = None
    try:
        with open_stream(path, limit=MAX_DATA_BYTES) as file:
            while text := file.readline(MAX_LINE):
                number += 1
                if run is None:
                    run = ExamplesRun.model_validate(_parsed(text))
                else:
                    records.append(parsed_record(run.kind, text))
    except ValidationError as error:
        raise _invalid(path, f"line {number}: {error.errors(include_url=False)[0]['msg']}") from None
    except ValueError as error:
        raise _invalid(path, f"line {number}: Invalid JSON: {error}") from None
    if run is None:
        raise _invalid(path, "line 1: the file is empty")
    if len(records) != run.n:
        raise _invalid(path, f"{len(records)} records instead of the {run.n} in the first line")
    return Evaluation(run, tuple(records))


def _parsed(row: bytes) -> Any:
    """The values of a line, parsed apart from the validation: pydantic's errors would hold a copy of the line for each
    field that is missing. Raises ValueError."""
    if row.count(b"[") > MAX_LISTS:
        raise ValueError(f"more than {MAX_LISTS:,} lists")
    return from_json(row, allow_inf_nan=False)


def _invalid(path: Path, why: str) -> InputError:
    hint = "evaluate again: records are never edited by hand"
    return InputError(f"{path}: not a valid {SCHEMA} file: {why}", code="artifact-invalid", hint=hint)


# ---------------------------------------------------------------- answers as bits, to be stored with the counts


def pack(correct: Iterable[bool]) -> str:
    """Return answers as bits in base64: the first is the highest bit of the first byte, and zeros fill the last byte.

    >>> pack([True, False, False, False, False, False, False, True, True])
    'gYA='
    """
    bits = "".join("1" if is_correct else "0" for is_correct in correct)
    size = -(-len(bits) // 8)
    return base64.b64encode(int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")).decode("ascii")


def unpack(text: str, n: int) -> tuple[bool, ...]:
    """Return the `n` answers that `pack` has packed. Raises ValueError for anything but exactly that.

    >>> unpack("gYA=", 9)
    (True, False, False, False, False, False, False, True, True)
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64-encoded answers") from None
    bits = f"{int.from_bytes(packed, 'big'):0{max(8 * len(packed), 1)}b}" if packed else ""
    if len(packed) != -(-n // 8) or "1" in bits[n:]:
        raise ValueError(f"not the answers to {n} examples")
    return tuple(bit == "1" for bit in bits[:n])
