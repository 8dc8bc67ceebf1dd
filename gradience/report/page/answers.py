"""The records that a report names, where they lie beside it: what each adapter answered, and which examples flipped.

Records that are not those of the report's digest are not read, and no name leads out of the report's folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    GenerationRecord,
    Record,
    ScoreRecord,
    read_records,
)
from gradience.reading import MAX_DATA_BYTES

EXCERPT = 120
"""Characters of an answer: its end, where the answer of a text stands."""
Pair = tuple[Record, Record]
"""What the original and what the smaller adapter answered to one example."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one adapter answered."""

    name: str
    file: str
    """Below the folder of the report."""
    sha256: str


def file_in(folder: Path, name: str) -> Path | None:
    """Return the file of this name; None where there is none in the folder."""
    path = folder / name
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    return path if inside and path.is_file() else None


def read_answers(answers: Answers, folder: Path) -> Evaluation[Record] | None:
    """Return the records, where they are there. Raises InputError (`other-records`)."""
    path = file_in(folder, answers.file)
    if path is None:
        return None
    if sha256_file(path, limit=MAX_DATA_BYTES) != answers.sha256:
        raise InputError(
            f"{answers.file}: not the records that the report was made from: another sha256",
            code="other-records",
            hint="evaluate again",
        )
    return read_records(path)


def flipped(before: Evaluation[Record], after: Evaluation[Record]) -> tuple[Sequence[Pair], Sequence[Pair]]:
    """Return the examples that only the original has correct, and those that only the other has."""
    old = {record.id: record for record in before.records if not isinstance(record, ScoreRecord)}
    pairs = [(old[record.id], record) for record in after.records if record.id in old]
    lost = [pair for pair in pairs if pair[0].correct and not pair[1].correct]
    gained = [pair for pair in pairs if pair[1].correct and not pair[0].correct]
    return lost, gained


def gold_of(record: Record) -> str:
    """Return the correct answer."""
    match record:
        case ClassificationRecord() | ChoiceRecord():
            return str(record.label)
        case GenerationRecord():
            return _end(record.answer)
    return ""


def said_in(record: Record) -> str:
    """Return what was answered."""
    match record:
        case ClassificationRecord() | ChoiceRecord():
            return str(record.predicted)
        case GenerationRecord():
            return _end(record.output if record.extracted is None else record.extracted)
    return ""


def _end(text: str) -> str:
    return text if len(text) <= EXCERPT else f"…{text[-EXCERPT:]}"
