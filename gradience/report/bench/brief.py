"""`bench.json` -> one short screen: the verdict, every adapter in one table, and what the numbers mean."""

from __future__ import annotations

from collections.abc import Iterator

from gradience.bench.arms.registry import control_of
from gradience.bench.verdict.policy import exact_percent
from gradience.report.bench import sections
from gradience.report.bench.numbers import points
from gradience.reports.base.blocks import Column, Document, Facts, Heading, Inline, Span, Table, items
from gradience.reports.base.numbers import MISSING, count, number_range, percent
from gradience.reports.bench import Bench, VariantResult
from gradience.reports.bench_plan import allowed_losses


def brief_blocks(bench: Bench) -> Document:
    """Return the verdict, the table and the meaning of its columns and rows: 25 lines at 80 columns in the demo."""
    limits = [*(bench.reasons if bench.status != "PASS" else []), *bench.notes]
    blocks = [
        *sections.title(bench, bench.data.task, f"seed {bench.seed}"),
        *([items(limits)] if limits else []),
    ]
    if bench.probe is None or not bench.probe.gate.passed:
        return blocks
    return [
        *blocks,
        Heading("How many are correct?", aside=f"of the same {count(bench.probe.n)} test examples"),
        _table(bench),
        Heading("What do the numbers mean?"),
        Facts(list(_meanings(bench, bench.probe.n))),
    ]


def _table(bench: Bench) -> Table:
    assert bench.probe is not None
    columns = [Column(), Column("rank", ">"), Column("correct", ">"), Column("Δ, points", ">")]
    probe: list[Inline] = [Span("probe", "name"), str(bench.probe.rank), f"{bench.probe.correct:,}"]
    return Table([*columns, Column("saved", ">"), Column()], [probe, *map(_row, bench.variants)])


def _row(result: VariantResult) -> list[Inline]:
    ranks, measures = result.ranks, result.measures
    return [
        Span(result.name, "name"),
        number_range((ranks.smallest, ranks.largest)) if ranks else MISSING,
        f"{measures.correct:,}" if measures else MISSING,
        points(result.delta),
        percent(result.reduction),
        sections.status_of(result),
    ]


def _meanings(bench: Bench, n: int) -> Iterator[tuple[str, Inline]]:
    """Yield a label and a sentence for each thing that the table does not say itself."""
    allowed, share = allowed_losses(n, bench.policy.tolerance), exact_percent(bench.policy.tolerance)
    yield "Δ, points", f"variant − probe; PASS: at most {allowed:,} fewer correct ({share})"
    yield "saved", "share of the LoRA parameters that the smaller adapter does without"
    yield from sections.ways(bench.candidates)
    if bench.controls:
        yield "controls", "not candidates: they show that a bad adapter would be noticed"
    controls = [control for result in bench.controls if (control := control_of(result.name))]
    for expected, label in (("FAIL", "must fail"), ("PASS", "must pass")):
        named = [
            f"{one.name} ({one.words.partition(';')[0]})" for one in controls if one.expected == expected
        ]
        if named:
            yield label, ", ".join(named)
    yield "one seed", "shows how it works; a claim needs several"
