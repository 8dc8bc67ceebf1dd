"""Which examples flipped: those that only the original or only a smaller adapter has correct, from the records.

A page is made without the records too, and then has no such section.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gradience.errors import InputError
from gradience.files.records import Evaluation, Record
from gradience.report.page.answers import Answers, Pair, flipped, gold_of, read_answers, said_in
from gradience.report.page.flips_of_seeds import flips_over_seeds
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Note, Notes, Paragraph, Span, Table
from gradience.reports.base.numbers import count
from gradience.reports.base.report import Report
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate
from gradience.reports.evaluation import REFERENCE, EvaluatedAdapter, EvaluationReport
from gradience.reports.shrink import ShrinkReport

SHOWN = 10
"""Examples of each kind and adapter."""


def flip_blocks(report: Report, folder: Path, *, texts: bool = True) -> list[Block]:
    """Return the section about examples that flipped; nothing where the report or the folder has no records.

    texts: whether answers are quoted; identities and counts stay.
    """
    aside = "at most 10 of a kind; records hold answers, not prompts"
    blocks: list[Block] = []
    try:
        if isinstance(report, BenchAggregate):
            aside = "in how many seeds: those that flip in more than one, at most 10 of a variant"
            blocks += flips_over_seeds(report, folder, texts=texts)
        else:
            blocks += _of_report(report, folder, texts=texts)
    except InputError as error:
        blocks.append(Notes([Note("warning", f"records that are not shown: {error}")]))
    return [Heading("Which examples flipped?", aside=aside), *blocks] if blocks else []


def _of_report(report: Report, folder: Path, *, texts: bool) -> Iterator[Block]:
    reference, candidates = _answers(report)
    before = None if reference is None else read_answers(reference, folder)
    for candidate in candidates if before else []:
        after = read_answers(candidate, folder)
        if before and after:
            yield from _of_one(candidate.name, before, after, texts=texts)


def _answers(report: Report) -> tuple[Answers | None, list[Answers]]:
    """The reference's answers and those of each smaller adapter."""
    match report:
        case EvaluationReport():
            rows = [row for row in report.adapters if row.records]
        case ShrinkReport():
            candidates = [candidate.result for candidate in report.candidates if candidate.result is not None]
            rows = [row for row in (report.reference, *candidates) if row.records]
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


def _of_one(
    name: str, before: Evaluation[Record], after: Evaluation[Record], *, texts: bool
) -> Iterator[Block]:
    lost, gained = flipped(before, after)
    for pairs, words in ((lost, "only the original has correct"), (gained, "only this one has correct")):
        if pairs:
            yield Paragraph((Span(name, "name"), f": {count(len(pairs))} that {words}"))
            yield _table(pairs[:SHOWN], texts=texts)


def _table(pairs: Sequence[Pair], *, texts: bool) -> Table:
    columns = [Column("id")]
    if texts:
        columns += [Column("correct answer"), Column("original"), Column("this one")]
    rows: list[list[Inline]] = []
    for old, new in pairs:
        said = (gold_of(old), said_in(old), said_in(new)) if texts else ()
        rows.append([Span(new.id, "name"), *(Span(text, "name") for text in said)])
    return Table(columns, rows)
