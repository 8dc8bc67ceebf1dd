"""`bench.json` and `bench_aggregate.json` as documents.

seed.py        one seed: the probe, its audit, every variant against it
together.py    the seeds of one protocol
brief.py       one seed on a short screen that says what its numbers mean
summary.py     several runs in one table
sections.py    the sections that one seed and several have alike
numbers.py     counts and shares in text
"""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.bench.brief import brief_blocks
from gradience.report.bench.seed import bench_blocks
from gradience.report.bench.summary import summary_blocks
from gradience.report.bench.together import aggregate_blocks
from gradience.reports.base import terminal
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import BenchAggregate


def bench_text(bench: Bench, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience bench run` prints for one seed."""
    return terminal.render(bench_blocks(bench, sources=False), width=width, color=color)


def brief_text(bench: Bench, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience demo --train` prints at its end."""
    return terminal.render(brief_blocks(bench), width=width, color=color)


def aggregate_text(report: BenchAggregate, *, width: int | None = None, color: bool = False) -> str:
    """Return what `gradience bench aggregate` prints."""
    return terminal.render(aggregate_blocks(report, sources=False), width=width, color=color)


def summary_text(
    results: Sequence[Bench | BenchAggregate], *, width: int | None = None, color: bool = False
) -> str:
    """Return what `gradience bench summary` prints."""
    return terminal.render(summary_blocks(results), width=width, color=color)
