"""Which examples flipped: those that only the original or only a smaller adapter has correct, from the records.

The records lie beside a report; a page is made without them too, and then has no such section. Records that are not
those of the report's digest are not shown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradience.artifacts.bench import Bench
from gradience.artifacts.evaluation import REFERENCE, EvaluatedAdapter, EvaluationReport
from gradience.artifacts.records import (
    ChoiceRecord,
    ClassificationRecord,
    Evaluation,
    GenerationRecord,
    Record,
    ScoreRecord,
    read_records,
)
from gradience.artifacts.report import Report
from gradience.artifacts.shrink import ShrinkReport
from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.reading import MAX_DATA_BYTES
from gradience.report.blocks import Block, Column, Heading, Inline, Note, Notes, Paragraph, Span, Table
from gradience.report.numbers import count

SHOWN = 10
"""Examples of each kind and adapter."""
EXCERPT = 120
"""Characters of an answer: its end, where the answer of a text stands."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one adapter answered."""

    name: str
    file: str
    """Below the folder of the report."""
    sha256: str


def flip_blocks(report: Report, folder: Path, *, texts: bool = True) -> list[Block]:
    """Return the section about examples that flipped; nothing where the report or the folder has no records.

    texts: whether answers are quoted; identities and counts stay.
    """
    reference, candidates = _answers(report)
    if reference is None:
        return []
    blocks: list[Block] = []
    try:
        before = _read(reference, folder)
        for candidate in candidates if before else []:
            after = _read(candidate, folder)
            if before and after:
                blocks += _of_one(candidate.name, before, after, texts=texts)
    except InputError as error:
        blocks.append(Notes([Note("warning", f"records that are not shown: {error}")]))
    aside = "at most 10 of a kind; records hold answers, not prompts"
    return [Heading("Which examples flipped?", aside=aside), *blocks] if blocks else []


def _answers(report: Report) -> tuple[Answers | None, list[Answers]]:
    """The reference's answers and those of each smaller adapter."""
    match report:
        case EvaluationReport():
            rows = [row for row in report.adapters if row.records]
        case ShrinkReport():
            rungs = [rung.result for rung in report.rungs if rung.result is not None]
            rows = [row for row in (report.reference, *rungs) if row.records]
        case Bench() if report.probe is not None:
            probe = Answers("probe", report.probe.records, report.probe.records_sha256)
            measured = [(row.name, row.measures) for row in report.variants]
            return probe, [
                Answers(name, one.records, one.records_sha256) for name, one in measured if one is not None
            ]
        case _:
            return None, []
    first = next((row for row in rows if row.role == REFERENCE), None)
    return (
        None if first is None else _of_row(first),
        [_of_row(row) for row in rows if row.role != REFERENCE],
    )


def _of_row(row: EvaluatedAdapter) -> Answers:
    """The first of its files: of free text the second has scores of the gold responses."""
    return Answers(row.name, row.records[0].path, row.records[0].sha256)


def _read(answers: Answers, folder: Path) -> Evaluation[Record] | None:
    """The records, where they are there; no name leads out of the folder. Raises InputError (`other-records`)."""
    path = folder / answers.file
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    if not inside or not path.is_file():
        return None
    if sha256_file(path, limit=MAX_DATA_BYTES) != answers.sha256:
        raise InputError(
            f"{answers.file}: not the records that the report was made from: another sha256",
            code="other-records",
            hint="evaluate again",
        )
    return read_records(path)


def _of_one(
    name: str, before: Evaluation[Record], after: Evaluation[Record], *, texts: bool
) -> Iterator[Block]:
    old = {record.id: record for record in before.records if not isinstance(record, ScoreRecord)}
    pairs = [(old[record.id], record) for record in after.records if record.id in old]
    lost = [pair for pair in pairs if pair[0].correct and not pair[1].correct]
    gained = [pair for pair in pairs if pair[1].correct and not pair[0].correct]
    for flipped, words in ((lost, "only the original has correct"), (gained, "only this one has correct")):
        if flipped:
            yield Paragraph((Span(name, "name"), f": {count(len(flipped))} that {words}"))
            yield _table(flipped[:SHOWN], texts=texts)


def _table(pairs: Sequence[tuple[Record, Record]], *, texts: bool) -> Table:
    columns = [Column("id")]
    if texts:
        columns += [Column("correct answer"), Column("original"), Column("this one")]
    rows: list[list[Inline]] = []
    for old, new in pairs:
        said = (_gold(old), _said(old), _said(new)) if texts else ()
        rows.append([Span(new.id, "name"), *(Span(text, "name") for text in said)])
    return Table(columns, rows)


def _gold(record: Record) -> str:
    match record:
        case ClassificationRecord() | ChoiceRecord():
            return str(record.label)
        case GenerationRecord():
            return _end(record.answer)
    return ""


def _said(record: Record) -> str:
    match record:
        case ClassificationRecord() | ChoiceRecord():
            return str(record.predicted)
        case GenerationRecord():
            return _end(record.output if record.extracted is None else record.extracted)
    return ""


def _end(text: str) -> str:
    return text if len(text) <= EXCERPT else f"…{text[-EXCERPT:]}"
