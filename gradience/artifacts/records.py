"""`*.records.jsonl`: one line for every example that was evaluated, below one line that says how.

Scores are counts over these lines, so that anybody can count again. Two files may be compared example by
example only when their headers agree on everything but the adapter (`ExamplesRun.same_run_as`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from gradience.artifacts.base import Float12, Part, write_whole
from gradience.errors import InputError

SCHEMA = "gradience.records/1"


class ExamplesRun(Part):
    """The first line: what answered, and everything that can move an answer."""

    schema_: Literal["gradience.records/1"] = Field(default="gradience.records/1", alias="schema")
    kind: Literal["classification"] = "classification"
    adapter: str
    """The name it was evaluated under."""
    adapter_sha256: str
    """Digest of its weights file."""
    base: str
    """The base model's name or folder, as it was loaded."""
    lora: bool = True
    """False: the adapter's head alone, on the base's own features (ΔW = 0)."""
    dtype: str
    """The base's dtype, as torch names it."""
    batch_size: int
    max_length: int
    """Tokens of a text that were read; what is longer is cut."""
    threads: int
    versions: dict[str, str]
    """torch, transformers, peft."""
    n: int
    """How many examples follow."""

    def same_run_as(self, other: ExamplesRun) -> bool:
        """Whether the two differ in the adapter alone."""
        adapter = {"adapter", "adapter_sha256", "lora"}
        return self.model_dump(exclude=adapter) == other.model_dump(exclude=adapter)


class ClassificationRecord(Part):
    """One example and the answer to it."""

    id: str
    text_sha256: str
    """Digest of the text exactly as it was given to the tokenizer."""
    label: int
    predicted: int
    correct: bool
    logits: tuple[Float12, ...]
    truncated: bool
    """Whether the text was longer than `max_length` tokens."""


def write_records(path: Path, run: ExamplesRun, records: Sequence[ClassificationRecord]) -> Path:
    """Write header and records to `path`, whole or not at all. Raises OutputError (`write-failed`)."""
    lines = [run.model_dump_json(), *(record.model_dump_json() for record in records)]
    return write_whole(path, [line.encode() + b"\n" for line in lines])


def read_records(path: str | os.PathLike[str]) -> tuple[ExamplesRun, tuple[ClassificationRecord, ...]]:
    """Header and records of the file at `path`.

    Raises InputError: `artifact-missing` when it cannot be read, `artifact-invalid` when a line is not what
    it should be or when there are more or fewer records than the header says.
    """
    path = Path(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"{path}: cannot read these records: {error.strerror}",
            code="artifact-missing",
            hint="check the path",
        ) from None
    rows = lines[1:-1] if lines[-1] == b"" else lines[1:]
    number = 1
    records = []
    try:
        run = ExamplesRun.model_validate_json(lines[0])
        for line in rows:
            number += 1
            records.append(ClassificationRecord.model_validate_json(line))
    except ValidationError as error:
        raise _invalid(path, f"line {number}: {error.errors(include_url=False)[0]['msg']}") from None
    if len(records) != run.n:
        raise _invalid(path, f"{len(records)} records, and the first line says {run.n}")
    return run, tuple(records)


def _invalid(path: Path, why: str) -> InputError:
    return InputError(
        f"{path}: not a valid {SCHEMA} file: {why}",
        code="artifact-invalid",
        hint="evaluate again: records are never edited by hand",
    )
