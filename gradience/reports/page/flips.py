"""Flipped examples: examples that only the reference or only the candidate answers correctly.

They are read from the records that a report names, if the files are in the report's folder. For a Bench run, flips are
counted over seeds: an example that flips in most seeds is unlikely to be noise. Records with a different digest are
refused, and file names cannot point outside the folder. Without records the page has no such section.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

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
from gradience.reports.base.blocks import Block, Column, Heading, Inline, Note, Notes, Paragraph, Span, Table
from gradience.reports.base.numbers import count, plural
from gradience.reports.base.report import Report
from gradience.reports.bench import Bench, BenchAggregate, VariantSummary
from gradience.reports.evaluation import REFERENCE, EvaluationReport
from gradience.reports.shrink import ShrinkReport

SHOWN = 10
"""Maximum number of examples per kind and adapter."""
EXCERPT, PROMPT = 120, 600
"""Maximum characters of an answer and of a prompt; the end is kept."""
Pair = tuple[Record, Record]
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
    quoted = Quoted(prompts or (lambda: PromptTexts({})), shown=texts)
    aside = f"up to {SHOWN} per kind"
    blocks: list[Block] = []
    try:
        if isinstance(report, BenchAggregate):
            aside = (
                f"number of seeds per example; up to {SHOWN} examples per variant that flip in several seeds"
            )
            blocks += _over_seeds(report, folder, quoted)
        else:
            for flips in _flips(report, folder, PurePosixPath()):
                blocks += _of_one(flips, quoted)
    except InputError as error:
        blocks.append(Notes([Note("warning", f"records not shown: {error}")]))
    if not blocks:
        return []
    aside += "; the prompts were not found on this machine" if texts and not quoted.prompts.texts else ""
    return [Heading("Flipped examples", aside=aside, folded=True), *blocks]


@dataclass
class Quoted:
    """Cells with the texts of examples."""

    read: ReadPrompts
    shown: bool
    """False: private texts are left out; only the examples' ids are shown."""

    @cached_property
    def prompts(self) -> PromptTexts:
        """The prompts, read when they are first needed."""
        return self.read() if self.shown else PromptTexts({})

    def head(self, *answers: str) -> list[Column]:
        """Return the columns of an example: its id or its prompt, and its answers."""
        if not self.shown:
            return [Column("id")]
        return [
            Column("prompt" if self.prompts.texts else "id", wrap=True),
            *(Column(name) for name in answers),
        ]

    def example(self, key: str, *answers: str) -> list[Inline]:
        """Return the cells of an example with these answers."""
        prompt = self.prompts.texts.get(key, "")
        if not self.shown:
            return [Span(key, "name")]
        texts = (_end(prompt, PROMPT), *answers) if prompt else answers
        return [*([] if prompt else [Span(key, "name")]), *(Span(text, "quote") for text in texts)]

    def answers(self, record: Record) -> tuple[str, str]:
        """Return the correct answer and the given answer."""
        if isinstance(record, ClassificationRecord | ChoiceRecord):
            return self._label(record.label), self._label(record.predicted)
        if isinstance(record, GenerationRecord):
            given = record.output if record.extracted is None else record.extracted
            return _end(record.answer), _end(given)
        return "", ""

    def _label(self, label: int) -> str:
        return self.prompts.labels[label] if label < len(self.prompts.labels) else str(label)


# ---------------------------------------------------------------- records


class AdapterRecords(NamedTuple):
    """Records of one adapter."""

    name: str
    file: str
    """Path inside the folder of the report."""
    sha256: str


class Flips(NamedTuple):
    """Examples that only one of two adapters answers correctly."""

    name: str
    lost: Sequence[Pair]
    """Only the reference is correct."""
    gained: Sequence[Pair]


def _answers(report: Report, place: PurePosixPath) -> list[AdapterRecords]:
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
                AdapterRecords(name, str(place / measures.records), measures.records_sha256)
                for name, measures in measured
                if measures is not None
            ]
        case _:
            return []
    kept = sorted((row for row in rows if row.records), key=lambda row: row.role != REFERENCE)
    if not kept or kept[0].role != REFERENCE:
        return []
    # the first file has the answers; for free text the second has scores of the gold responses
    return [AdapterRecords(row.name, row.records[0].path, row.records[0].sha256) for row in kept]


def _flips(report: Report, folder: Path, place: PurePosixPath) -> Iterator[Flips]:
    """Yield the flips of each adapter with records. Raises InputError (`other-records`)."""
    answers = _answers(report, place)
    before = _read(answers[0], folder) if answers else None
    if before is None:
        return
    old = {record.id: record for record in before.records if not isinstance(record, ScoreRecord)}
    for candidate in answers[1:]:
        after = _read(candidate, folder)
        if after is not None:
            pairs = [(old[record.id], record) for record in after.records if record.id in old]
            lost = [pair for pair in pairs if pair[0].correct and not pair[1].correct]
            gained = [pair for pair in pairs if pair[1].correct and not pair[0].correct]
            yield Flips(candidate.name, lost, gained)


def _read(answers: AdapterRecords, folder: Path) -> Evaluation[Record] | None:
    path = _file_in(folder, answers.file)
    if path is None:
        return None
    if sha256_file(path, limit=MAX_DATA_BYTES) != answers.sha256:
        raise InputError(
            f"{answers.file}: sha256 differs from the one in the report",
            code="other-records",
            hint="evaluate again to rewrite records and report",
        )
    return read_records(path)


def _file_in(folder: Path, name: str) -> Path | None:
    """Return the file of this name in the folder, or None."""
    path = folder / name
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    return path if inside and path.is_file() else None


def _end(text: str, most: int = EXCERPT) -> str:
    return text if len(text) <= most else f"…{text[-most:]}"


# ---------------------------------------------------------------- one evaluation


def _of_one(flips: Flips, quoted: Quoted) -> Iterator[Block]:
    for pairs, words in ((flips.lost, "reference only"), (flips.gained, "candidate only")):
        if pairs:
            yield Paragraph((Span(flips.name, "name"), f": {plural(len(pairs), 'correct answer')}, {words}"))
            yield Table(
                quoted.head("correct answer", "reference", "candidate"),
                [
                    quoted.example(new.id, *quoted.answers(old), quoted.answers(new)[1])
                    for old, new in pairs[:SHOWN]
                ],
            )


# ---------------------------------------------------------------- several seeds


@dataclass(slots=True)
class Repeated:
    """Flipped examples of one variant, counted over its seeds."""

    seeds: int = 0
    """Number of seeds with records."""
    lost: Counter[str] = field(default_factory=Counter)
    """Example id -> number of seeds with only the reference correct."""
    gained: Counter[str] = field(default_factory=Counter)
    """Example id -> number of seeds with only the candidate correct."""
    gold: dict[str, str] = field(default_factory=dict)

    def most(self, example: str) -> int:
        """Return the number of seeds in which the example flips in its most common direction."""
        return max(self.lost[example], self.gained[example])


def _over_seeds(report: BenchAggregate, folder: Path, quoted: Quoted) -> Iterator[Block]:
    """Yield the counts of each variant except controls, and a table of examples that flip in several seeds.

    Raises InputError (`other-records`) if the records do not match the counts of the report.
    """
    variants = {row.name: row for row in report.variants if not row.is_control}
    repeated = {name: Repeated() for name in variants}
    for seed in report.seeds:
        path = None if seed.source is None else _file_in(folder, seed.source)
        if path is None or seed.source is None:
            continue
        for flips in _flips(Bench.read(path), folder, PurePosixPath(seed.source).parent):
            if flips.name in variants:
                _check_counts(variants[flips.name], seed.seed, flips)
                variant = repeated[flips.name]
                variant.seeds += 1
                for counter, pairs in ((variant.lost, flips.lost), (variant.gained, flips.gained)):
                    counter.update(old.id for old, _ in pairs)
                    variant.gold.update((old.id, quoted.answers(old)[0]) for old, _ in pairs)
    for name, variant in repeated.items():
        if variant.gold:
            yield from _of_variant(name, variant, quoted)


def _check_counts(variant: VariantSummary, seed: int, flips: Flips) -> None:
    counted = next((row for row in variant.seeds if row.seed == seed), None)
    counts = (None, None) if counted is None else (counted.only_probe_correct, counted.only_variant_correct)
    lost, gained = len(flips.lost), len(flips.gained)
    if counts not in ((None, None), (lost, gained)):
        raise InputError(
            f"seed {seed}, {variant.name}: {lost} and {gained} flipped examples in the records, not as in the report",
            code="other-records",
            hint="aggregate the seeds again",
        )


def _of_variant(name: str, flips: Repeated, quoted: Quoted) -> Iterator[Block]:
    examples = sorted(flips.gold, key=lambda example: (-flips.most(example), example))
    always = sum(flips.most(example) == flips.seeds for example in examples)
    words = f": {plural(len(examples), 'example flips', 'examples flip')} over {plural(flips.seeds, 'seed')}"
    words += f", {count(always)} in every seed and in the same direction" if flips.seeds > 1 else ""
    yield Paragraph((Span(name, "name"), words))
    again = [example for example in examples if flips.most(example) > 1 or flips.seeds == 1]
    if again:
        seeds = [Column("reference only, seeds", ">"), Column("candidate only, seeds", ">")]
        yield Table(
            [*quoted.head("correct answer"), *seeds],
            [
                [
                    *quoted.example(example, flips.gold[example]),
                    str(flips.lost[example] or ""),
                    str(flips.gained[example] or ""),
                ]
                for example in again[:SHOWN]
            ],
        )
