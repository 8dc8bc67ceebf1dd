"""Bench runs of all sizes in one table: model, parameters, task, compression, status."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.bench.evidence import letter
from gradience.report.bench.numbers import mean_percent
from gradience.report.bench.sections import ROLES, SMOKE_STATUS, reduction
from gradience.reports.base.blocks import Column, Document, Inline, Span, Table
from gradience.reports.base.numbers import MISSING, count, percent
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate


def summary_blocks(results: Sequence[Bench | BenchAggregate]) -> Document:
    """Return the table, one row for each run."""
    graded = any(_grade(run) != MISSING for run in results)
    columns = [
        Column("model"),
        Column("parameters", ">", drop=1),
        Column("task"),
        Column("seeds", drop=2),
        Column("probe", ">", drop=3),
        Column("smallest that passes"),
        Column("saved", ">"),
        Column("status"),
        *([Column("grade")] if graded else []),
    ]
    return [Table(columns, [_row(run)[: len(columns)] for run in results])]


def _grade(run: Bench | BenchAggregate) -> Inline:
    """Of the smallest that passes."""
    best = next((one for one in run.variants if run.best is not None and one.name == run.best.name), None)
    return letter(best) if best is not None else MISSING


def _row(run: Bench | BenchAggregate) -> list[Inline]:
    if isinstance(run, Bench):
        task, seeds = run.data.task, str(run.seed)
        score = percent(run.probe.score if run.probe else None)
        status = SMOKE_STATUS if run.smoke else run.status
    else:
        task, seeds = run.task, ", ".join(map(str, run.planned_seeds))
        score, status = mean_percent(run.probe), run.status
    return [
        Span(run.model, "name"),
        MISSING if run.base_params is None else count(run.base_params),
        Span(task, "name"),
        seeds,
        score,
        Span(run.best.name, "name") if run.best else MISSING,
        percent(reduction(run.best)) if run.best else MISSING,
        Span(status, ROLES[status]),
        _grade(run),
    ]
