"""`bench_aggregate.json` -> blocks: the seeds of one protocol, and the policy's verdict on each variant."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.bench import evidence, sections
from gradience.report.bench.ladder import ladder_section
from gradience.report.bench.numbers import counted_points, mean_percent, out_of, points
from gradience.report.bench.predictions import predictions
from gradience.report.bench.sections import Row
from gradience.reports.base.blocks import (
    Block,
    Column,
    Document,
    Facts,
    Heading,
    Inline,
    Paragraph,
    Span,
    Table,
    items,
)
from gradience.reports.base.numbers import MISSING, number_range, percent, plural
from gradience.reports.bench_aggregate import BenchAggregate, VariantSeed, VariantSummary
from gradience.words import noun

COLUMNS = (
    "Max rank: the largest of its modules, lowest to highest over the seeds. Worst Δ: variant − probe on the same "
    "examples, in percentage points, on the seed where it is lowest. Saved: share of the LoRA parameters, classifier "
    "heads excluded. Accuracy: mean over the seeds that have a result."
)


def aggregate_blocks(report: BenchAggregate, *, sources: bool = True) -> Document:
    """Return the sections. sources: the last one, with files and digests."""
    seeds = f"{noun(len(report.planned_seeds), 'seed')} {', '.join(map(str, report.planned_seeds))}"
    blocks = [
        *sections.title(report, report.task, seeds),
        *_reasons(report),
        _conditions(report),
        Heading("Probe"),
        Facts(
            [
                *sections.data(report.base_params, report.splits, report.eval_role),
                *_probe(report),
                *evidence.answer_problems(report),
                *evidence.noise(report),
            ]
        ),
        Heading("Variants", aside="each seed on the same examples as its probe"),
        _table(report.candidates),
        *sections.legend(report.candidates, COLUMNS),
        *evidence.grades(report.candidates),
        *evidence.differences(report.variants),
        *evidence.next_grades(report.candidates),
        *predictions(report.candidates, report.model_type),
        *(ladder_section(report.ladder, report.steps) if report.ladder else ()),
        *sections.controls(report.controls, _table(report.controls)),
        *sections.reasons([variant for variant in report.variants if not variant.is_step]),
        Heading("Seeds", aside="correct answers of the probe; Δ of the others, in percentage points"),
        _seeds(report),
        *sections.policy(report.policy, report.notes),
    ]
    return [*blocks, *sections.sources(report, report.splits, _sources(report))] if sources else blocks


def _reasons(report: BenchAggregate) -> list[Block]:
    """Those that concern the whole run and no variant of it: an error, a control that should have failed."""
    of_variants = any(variant.status == report.status for variant in report.variants)
    whole = report.status == "ERROR" or (report.status == "INCONCLUSIVE" and not of_variants)
    return [items(report.reasons)] if whole else []


def _conditions(report: BenchAggregate) -> Paragraph:
    """Whether it can carry a claim, with every condition that is not met."""
    seeds = plural(len(report.planned_seeds), "seed")
    answer = f"met (the protocol was followed, {seeds}, the full test split, controls as expected)"
    unmet = [f"{condition.name}: {condition.why}" for condition in report.conditions if not condition.met]
    if unmet:
        answer = f"not met ({'; '.join(unmet)})"
    return Paragraph((Span("Conditions of a claim", "strong"), f": {answer}."))


def _probe(report: BenchAggregate) -> list[Row]:
    if report.probe is None:
        return [("probe", "none on any seed")]
    spread = report.probe
    mean = "mean" if spread.sd is None else "mean ± sd"
    over = f"{mean}, {plural(spread.seeds, 'seed')}, {100 * spread.low:.1f} to {100 * spread.high:.1f} %"
    return [
        *([("rank", str(report.probe_rank))] if report.probe_rank is not None else []),
        ("score", f"{mean_percent(spread)} correct ({over})"),
        *sections.other_params(max((row.other_params or 0 for row in report.seeds), default=0)),
    ]


def _table(variants: Sequence[VariantSummary]) -> Table:
    graded = evidence.is_graded(variants)
    columns = [
        Column(),
        Column("status"),
        *([Column("grade")] if graded else []),
        Column("max rank", ">", drop=2),
        Column("pass rate", ">", drop=3),
        Column("worst Δ, points", ">"),
        Column("saved", ">", drop=4),
        Column("accuracy", ">", drop=1),
    ]
    return Table(columns, [_row(variant, graded) for variant in variants])


def _row(variant: VariantSummary, graded: bool) -> list[Inline]:
    mean, some = variant.accuracy, ""
    if mean is not None and mean.seeds < variant.planned:
        some = f" ({plural(mean.seeds, 'seed')})"
    return [
        Span(variant.name, "name"),
        sections.status_of(variant),
        *([evidence.letter(variant)] if graded else []),
        number_range(cell.largest_rank for cell in variant.seeds if cell.largest_rank is not None),
        MISSING if variant.status == "SKIPPED" else f"{variant.passing} of {variant.planned}",
        counted_points(variant.worst_delta, variant.worst_delta_exact),
        percent(variant.mean_reduction),
        f"{100 * mean.mean:.1f} %{some}" if mean else MISSING,
    ]


def _seeds(report: BenchAggregate) -> Table:
    """A column for each planned seed; where the terminal is narrow, the last ones go first."""
    most = len(report.seeds)
    columns = [Column(str(row.seed), ">", drop=most - place) for place, row in enumerate(report.seeds)]
    probe = [
        out_of(row.correct, row.n) if row.correct is not None and row.n else sections.status(row.status)
        for row in report.seeds
    ]
    rows = [[Span(variant.name, "name"), *map(_delta, variant.seeds)] for variant in report.variants]
    return Table([Column("seed"), *columns], [["probe", *probe], *rows])


def _delta(cell: VariantSeed) -> Inline:
    return points(cell.delta) if cell.delta is not None else sections.status(cell.status)


def _sources(report: BenchAggregate) -> list[str]:
    read = [f"seed {row.seed}: {row.source}" for row in report.seeds if row.source]
    return [*read, f"protocol {report.protocol_digest}"]
