"""Flipped examples: examples that only the reference or only the candidate answers correctly.

They are read from the records that a report names, if the files are in the report's folder. Records with a different
digest are refused, and file names cannot point outside the folder. Without records the page has no such section.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gradience.digests import sha256_file
from gradience.errors import InputError
from gradience.files import records
from gradience.reading import MAX_DATA_BYTES
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Note, Notes, Paragraph, Span, Table
from gradience.reports.base.numbers import plural
from gradience.reports.base.report import Report
from gradience.reports.bench import Bench
from gradience.reports.evaluation import REFERENCE, EvaluationReport, RecordsFile
from gradience.reports.shrink import ShrinkReport

TITLE = "Flipped examples"
SHOWN = 10
"""Maximum number of examples per kind and adapter."""
EXCERPT, PROMPT = 120, 600
"""Maximum characters of an answer and of a prompt; the end is kept."""
Pair = tuple[records.Record, records.Record]
"""Answers of the reference and of the candidate to one example."""


class PromptTexts(NamedTuple):
    """The data of a report's examples, read back from where they came from."""

    texts: Mapping[str, str]
    """Prompt by the example's id."""
    labels: Sequence[str] = ()
    """Names of the labels; empty if the answers are not labels."""


ReadPrompts = Callable[[], PromptTexts]


def flip_blocks(
    report: Report, folder: Path, prompts: ReadPrompts | None = None, *, texts: bool = True
) -> list[Block]:
    """Return the section on flipped examples; empty if there are no records.

    prompts: reads the data of the examples; called if there are flips to show. texts: True to quote prompts and
    answers; ids and counts are always shown.
    """
    try:
        flips = [*_flips(report, folder)]
    except InputError as error:
        return [Heading(TITLE), Notes([Note("warning", f"records not shown: {error}")])]
    if not flips:
        return []
    known = prompts() if prompts is not None and texts else PromptTexts({})
    aside = f"up to {SHOWN} per kind"
    aside += "; prompts not shown: no local data file could be read" if texts and not known.texts else ""
    blocks: list[Block] = [Heading(TITLE, aside=aside, folded=True)]
    for name, words, pairs in flips:
        title = f": {plural(len(pairs), 'correct answer')}, {words}"
        blocks += [Paragraph((Span(name, "name"), title)), _table(pairs[:SHOWN], known, texts=texts)]
    return blocks


def _table(pairs: Sequence[Pair], known: PromptTexts, *, texts: bool) -> Table:
    """Return examples with the correct answer and both given answers; only ids without texts."""
    if not texts:
        return Table([Column("id")], [[Span(new.id, "name")] for _, new in pairs])
    rows: list[list[Inline]] = []
    for old, new in pairs:
        prompt = known.texts.get(new.id)
        example = Span(new.id, "name") if prompt is None else Span(_end(prompt, PROMPT), "quote")
        (correct, reference), (_, candidate) = (answers_of(record, known.labels) for record in (old, new))
        rows.append([example, *(Span(text, "quote") for text in (correct, reference, candidate))])
    head = Column("prompt" if known.texts else "id", wrap=True)
    return Table([head, *map(Column, ("correct answer", "reference", "candidate"))], rows)


def answers_of(record: records.Record, labels: Sequence[str]) -> tuple[str, str]:
    """Return the correct answer and the given answer."""
    if isinstance(record, records.ClassificationRecord | records.ChoiceRecord):
        correct, given = (
            labels[label] if label < len(labels) else str(label) for label in (record.label, record.predicted)
        )
        return correct, given
    if isinstance(record, records.GenerationRecord):
        return _end(record.answer), _end(record.output if record.extracted is None else record.extracted)
    return "", ""


# ---------------------------------------------------------------- records


Answers = tuple[str, RecordsFile]
"""The name of an adapter, and the file of its answers inside the folder of the report."""


def _answers(report: Report) -> list[Answers]:
    """Return the records of the reference, then of each candidate; empty without a reference."""
    match report:
        case EvaluationReport():
            rows = list(report.adapters)
        case ShrinkReport():
            results = [candidate.result for candidate in report.candidates if candidate.result is not None]
            rows = [report.reference, *results]
        case Bench() if report.probe is not None:
            measured = [("probe", report.probe), *((row.name, row.measures) for row in report.variants)]
            return [
                (name, RecordsFile(path=measures.records, sha256=measures.records_sha256))
                for name, measures in measured
                if measures is not None
            ]
        case _:
            return []
    kept = sorted((row for row in rows if row.records), key=lambda row: row.role != REFERENCE)
    if not kept or kept[0].role != REFERENCE:
        return []
    # the first file has the answers; for free text the second has scores of the gold responses
    return [(row.name, row.records[0]) for row in kept]


def _flips(report: Report, folder: Path) -> Iterator[tuple[str, str, list[Pair]]]:
    """Yield the name of each adapter with records, which side alone is correct, and these examples, if there are any.

    Raises InputError (`other-records`).
    """
    answers = _answers(report)
    before = _read(answers[0][1], folder) if answers else None
    if before is None:
        return
    old = {record.id: record for record in before.records if not isinstance(record, records.ScoreRecord)}
    for name, file in answers[1:]:
        changed: dict[str, list[Pair]] = {"reference only": [], "candidate only": []}
        after = _read(file, folder)
        for record in after.records if after is not None else ():
            first = old.get(record.id)
            if first is not None and first.correct != record.correct:
                changed["reference only" if first.correct else "candidate only"].append((first, record))
        yield from ((name, words, pairs) for words, pairs in changed.items() if pairs)


def _read(file: RecordsFile, folder: Path) -> records.Evaluation[records.Record] | None:
    """Return the records in a file of the folder; None if it is not there, or a link leads out of the folder."""
    path = folder / file.path
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return None
    if sha256_file(path, limit=MAX_DATA_BYTES) != file.sha256:
        raise InputError(
            f"{file.path}: sha256 differs from the one in the report",
            code="other-records",
            hint="evaluate again to rewrite records and report",
        )
    return records.read_records(path)


def _end(text: str, most: int = EXCERPT) -> str:
    return text if len(text) <= most else f"…{text[-most:]}"
