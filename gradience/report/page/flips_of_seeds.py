"""Which examples flipped over the seeds of a Bench run: one that flips in most of them does so for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from gradience.errors import InputError
from gradience.files.records import Evaluation, Record
from gradience.report.page.answers import Answers, file_in, flipped, gold_of, read_answers
from gradience.reports.base.blocks import Block, Column, Inline, Paragraph, Span, Table
from gradience.reports.base.numbers import count, plural
from gradience.reports.bench import Bench, Measures
from gradience.reports.bench_aggregate import BenchAggregate, VariantSummary

SHOWN = 10
"""Examples of each variant, those that flip in most seeds first."""


@dataclass(slots=True)
class Flips:
    """The examples of one variant that only one of the two has correct, over its seeds."""

    seeds: int = 0
    """How many have records."""
    lost: Counter[str] = field(default_factory=Counter)
    """Identity -> in how many of them only the original has it correct."""
    gained: Counter[str] = field(default_factory=Counter)
    """The same of this one."""
    gold: dict[str, str] = field(default_factory=dict)

    def most(self, example: str) -> int:
        """Return in how many seeds the example flips in the same direction, at most."""
        return max(self.lost[example], self.gained[example])


def flips_over_seeds(report: BenchAggregate, folder: Path, *, texts: bool) -> Iterator[Block]:
    """Yield the counts of each variant that is no control, and a table of what flips in more than one seed.

    Raises InputError (`other-records`) where the records are not those that the report has counted.
    """
    variants = [row for row in report.variants if not row.is_control]
    flips = {row.name: Flips() for row in variants}
    for seed in report.seeds:
        path = None if seed.source is None else file_in(folder, seed.source)
        if path is None or seed.source is None:
            continue
        bench, place = Bench.read(path), PurePosixPath(seed.source).parent
        before = None if bench.probe is None else read_answers(_answers("probe", bench.probe, place), folder)
        measured = {row.name: row.measures for row in bench.variants}
        for variant in variants if before else []:
            measures = measured.get(variant.name)
            after = (
                None if measures is None else read_answers(_answers(variant.name, measures, place), folder)
            )
            if before and after:
                _add(flips[variant.name], variant, seed.seed, before, after)
    for name, of_variant in flips.items():
        if of_variant.gold:
            yield from _of_variant(name, of_variant, texts=texts)


def _answers(name: str, measures: Measures, place: PurePosixPath) -> Answers:
    return Answers(name, str(place / measures.records), measures.records_sha256)


def _add(
    flips: Flips, variant: VariantSummary, seed: int, before: Evaluation[Record], after: Evaluation[Record]
) -> None:
    lost, gained = flipped(before, after)
    counted = next((row for row in variant.seeds if row.seed == seed), None)
    counts = (None, None) if counted is None else (counted.only_probe_correct, counted.only_variant_correct)
    if counts not in ((None, None), (len(lost), len(gained))):
        raise InputError(
            f"seed {seed}, {variant.name}: {len(lost)} and {len(gained)} examples flip in the records, other than in"
            " the report",
            code="other-records",
            hint="aggregate the seeds again",
        )
    flips.seeds += 1
    for counter, pairs in ((flips.lost, lost), (flips.gained, gained)):
        counter.update(old.id for old, _ in pairs)
        flips.gold.update((old.id, gold_of(old)) for old, _ in pairs)


def _of_variant(name: str, flips: Flips, *, texts: bool) -> Iterator[Block]:
    every = sorted(flips.gold, key=lambda example: (-flips.most(example), example))
    always = sum(flips.most(example) == flips.seeds for example in every)
    said = f": {plural(len(every), 'example flips', 'examples flip')} over {plural(flips.seeds, 'seed')}"
    said += f", {count(always)} in each seed and in the same direction" if flips.seeds > 1 else ""
    yield Paragraph((Span(name, "name"), said))
    again = [example for example in every if flips.most(example) > 1 or flips.seeds == 1]
    if not again:
        return
    columns = [Column("id"), *([Column("correct answer")] if texts else [])]
    columns += [Column("only the original, seeds", ">"), Column("only this one, seeds", ">")]
    rows: list[list[Inline]] = [
        [
            Span(example, "name"),
            *([Span(flips.gold[example], "name")] if texts else []),
            str(flips.lost[example] or ""),
            str(flips.gained[example] or ""),
        ]
        for example in again[:SHOWN]
    ]
    yield Table(columns, rows)
