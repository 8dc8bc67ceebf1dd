"""Many adapters: what a lower max_lora_rank saves and costs a server, and what became of each adapter of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.report.plots.bars import MOST, largest_plot
from gradience.report.plots.plot import Axis, BarsOf, Lines, Plot, Series
from gradience.reports.base.numbers import count, percent, plural, size
from gradience.reports.fleet import BaseGroup, FleetReport
from gradience.reports.fleet_compression import FleetCompression

MOST_BASES = 6
"""Base models with a series of their own: those with the most adapters."""


def slots_plot(report: FleetReport) -> Plot | None:
    """Return the bytes of one slot of a server at each max_lora_rank; nothing where no slot has a size."""
    bases = [
        base for base in _largest(report) if base.slot_bytes is not None and base.max_lora_rank is not None
    ]
    if not bases:
        return None
    series: list[Series] = []
    ranks = _ranks(bases)
    for base in bases:
        sizes = {step.max_lora_rank: step.slot_bytes for step in base.steps}
        sizes[base.max_lora_rank or 0] = base.slot_bytes or 0
        at = [place for place, rank in enumerate(ranks) if rank in sizes]
        series.append(BarsOf(_name(base), at, [sizes[ranks[place]] for place in at]))
    first = bases[0]
    lowest = f", {size(first.steps[-1].slot_bytes)} at {first.steps[-1].max_lora_rank}" if first.steps else ""
    return Plot(
        "slots",
        "Memory of one slot",
        Axis("max_lora_rank", scale="categories", categories=[str(rank) for rank in ranks]),
        Axis("one slot", low=0.0, form="bytes"),
        series,
        f"One slot for {_name(first)} takes {size(first.slot_bytes or 0)} at max_lora_rank"
        f" {first.max_lora_rank}{lowest}.",
    )


def steps_plot(report: FleetReport) -> Plot | None:
    """Return the energy that adapters lose if truncated to a lower max_lora_rank; nothing where none is known."""
    bases = [
        base for base in _largest(report) if any(step.lost_energy_max is not None for step in base.steps)
    ]
    if not bases:
        return None
    ranks = _ranks(bases)
    series: list[Series] = []
    for base in bases:
        steps = {step.max_lora_rank: step for step in base.steps}
        at = [place for place, rank in enumerate(ranks) if rank in steps]
        shown = [steps[ranks[place]] for place in at]
        said = [
            f"max_lora_rank {step.max_lora_rank}\n{count(step.truncated)} of {plural(base.adapters, 'adapter')}"
            f" truncated\nenergy lost {percent(step.lost_energy_median)} at the median,"
            f" {percent(step.lost_energy_max)} at most"
            for step in shown
        ]
        most = [step.lost_energy_max for step in shown]
        series.append(Lines(f"{_name(base)}, most", at, most, marked=True, hover=said))
        if len(bases) == 1:
            middle = [step.lost_energy_median for step in shown]
            series.append(Lines(f"{_name(base)}, median", at, middle, marked=True, dashed=True, hover=said))
    first, step = bases[0], bases[0].steps[0]
    return Plot(
        "steps",
        "What a lower max_lora_rank loses",
        Axis("max_lora_rank", scale="categories", categories=[str(rank) for rank in ranks]),
        Axis("energy lost", low=0.0, form="share"),
        series,
        f"At max_lora_rank {step.max_lora_rank} {count(step.truncated)} of {plural(first.adapters, 'adapter')} of"
        f" {_name(first)} lose {percent(step.lost_energy_median)} of their energy at the median,"
        f" {percent(step.lost_energy_max)} at most.",
    )


def _largest(report: FleetReport) -> list[BaseGroup]:
    return sorted(report.bases, key=lambda base: -base.adapters)[:MOST_BASES]


def _ranks(bases: Sequence[BaseGroup]) -> list[int]:
    """Every max_lora_rank of the bases, from the smallest."""
    lower = {step.max_lora_rank for base in bases for step in base.steps}
    return sorted(lower | {base.max_lora_rank for base in bases if base.max_lora_rank is not None})


def _name(base: BaseGroup) -> str:
    return base.base_model or "(base not named)"


# ---------------------------------------------------------------- a batch


def truncated_bytes_plot(report: FleetCompression) -> Plot | None:
    """Return the bytes of each adapter before and after, the largest first."""
    rows = [row for row in report.adapters if row.old_bytes is not None and row.new_bytes is not None]
    rows = sorted(rows, key=lambda row: (-(row.old_bytes or 0), row.path))[:MOST]
    if not rows:
        return None
    places = list(range(len(rows)))
    return Plot(
        "bytes",
        "Bytes before and after",
        Axis("size", low=0.0, form="bytes"),
        Axis("adapter", scale="categories", categories=[row.path for row in rows]),
        [
            BarsOf("before", places, [row.old_bytes for row in rows], lying=True, tone="dim"),
            BarsOf("after", places, [row.new_bytes for row in rows], lying=True, tone="accent"),
        ],
        f"All that were written: {size(report.old_bytes)} before, {size(report.new_bytes)} after.",
    )


def truncated_error_plot(report: FleetCompression) -> Plot | None:
    """Return the relative error of each adapter's update, the largest first."""
    rows = [(row.path, row.measured_error) for row in report.adapters]
    return largest_plot(
        "error", "Relative error of the update", "relative error", rows, form="share", noun="adapter"
    )
