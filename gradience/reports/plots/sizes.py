"""Plots of compressions, fleets and plans: errors, sizes before and after, predicted KL, memory and margins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradience.reports.base.modules import by_kind, short_labels
from gradience.reports.base.numbers import chance, count, in_points, number_range, percent, plural, sig, size
from gradience.reports.comparison import ComparisonReport
from gradience.reports.compression import (
    CompressionPlan,
    CompressionReport,
    ModulePlan,
    ModuleResult,
    error_of,
)
from gradience.reports.evaluation import EvaluationForecast
from gradience.reports.fleet import BaseGroup, FleetReport, weight_error
from gradience.reports.fleet_compression import FleetCompression
from gradience.reports.forecast import BenchForecast
from gradience.reports.plots.plot import Axis, BarSeries, Lines, Plot, Points, Reference, Series
from gradience.reports.plots.shared import MOST_BARS, before_after, largest_plot, map_plot
from gradience.reports.power import PowerReport
from gradience.reports.shrink import ShrinkForecast

Compression = CompressionReport | CompressionPlan
Module = ModulePlan | ModuleResult
MOST_KINDS = 24
MOST_BASES = 6
"""Maximum number of base models with a separate series: those with the most adapters."""


def difference_plot(report: ComparisonReport) -> Plot | None:
    """Return the distance between the two updates of each module, the largest first."""
    rows = [(row.label, row.relative_difference) for row in report.modules]
    return largest_plot("difference", "‖A − B‖ over ‖A‖", "relative difference", rows, form="share")


# ---------------------------------------------------------------- a compression


def error_plot(report: Compression) -> Plot | None:
    """Return the relative error of each module's update, the largest first."""
    if isinstance(report, CompressionReport):
        rows = [(row.name, row.measured_error) for row in report.modules]
    else:
        rows = [(row.name, row.predicted_error) for row in report.modules]
    return largest_plot("error", "Relative error of the update", "relative error", rows, form="share")


def ranks_plot(report: Compression) -> Plot | None:
    """Return the number of modules at each rank, before and after."""
    before = Counter(row.old_rank for row in report.modules)
    after = Counter(row.new_rank for row in report.modules)
    ranks = sorted(before | after)
    if not ranks:
        return None
    return Plot(
        "ranks",
        "Ranks before and after",
        Axis("rank", categories=[str(rank) for rank in ranks]),
        Axis("modules", low=0.0, form="count"),
        before_after([before[rank] for rank in ranks], [after[rank] for rank in ranks]),
        f"Ranks of {plural(len(report.modules), 'module')}: {number_range(before)} before,"
        f" {number_range(after)} after.",
    )


def parameters_plot(report: Compression) -> Plot | None:
    """Return the LoRA parameters of each kind of modules, before and after."""
    return _sizes(report, "parameters")


def bytes_plot(report: Compression) -> Plot | None:
    """Return the bytes of each kind of modules, before and after."""
    return _sizes(report, "bytes")


def _sizes(report: Compression, name: str) -> Plot | None:
    modules: Sequence[Module] = report.modules
    in_bytes = name == "bytes"

    def totals(members: Sequence[Module]) -> tuple[int, int]:
        if in_bytes:
            return sum(row.old_bytes for row in members), sum(row.new_bytes for row in members)
        return sum(row.old_params for row in members), sum(row.new_params for row in members)

    kinds, hidden = by_kind(modules, lambda module: module.old_params, MOST_KINDS)
    if not kinds:
        return None
    labels = short_labels([kind for kind, _ in kinds])
    title, figure = ("Bytes", size) if in_bytes else ("LoRA parameters", count)
    before, after = totals(modules)
    more = f"; {plural(hidden, 'kind')} left out" if hidden else ""
    return Plot(
        name,
        f"{title} before and after",
        Axis("size" if in_bytes else title, low=0.0, form="bytes" if in_bytes else "number"),
        Axis("module", categories=[labels[kind] for kind, _ in kinds]),
        before_after(*zip(*(totals(members) for _, members in kinds), strict=True)),
        f"{title} of {plural(len(modules), 'module')}, by kind: {figure(before)} before, {figure(after)} after{more}.",
    )


def error_map(report: Compression) -> Plot | None:
    """Return the relative error of each module: kinds down, layers across; the hover text has all changes."""

    def hover(module: Module) -> str:
        return (
            f"{module.name}\nrank {module.old_rank} → {module.new_rank}, {count(module.old_params)} →"
            f" {count(module.new_params)} parameters, {size(module.old_bytes)} → {size(module.new_bytes)}\n"
            f"error {percent(error_of(module))}"
        )

    modules: Sequence[Module] = report.modules
    return map_plot(
        modules,
        "map",
        "Relative error of the update",
        Axis("relative error", low=0.0, form="share"),
        value=error_of,
        hover=hover,
        weight=lambda module: module.old_params,
    )


def kl_plot(report: Compression) -> Plot | None:
    """Return the predicted KL at each size, for calibrated components and for those of the SVD, with the
    smaller adapter marked; None without a calibration."""
    curve = sorted(report.curve, key=lambda point: point.params)
    if not curve:
        return None
    sizes = [point.params for point in curve]
    calibrated, svd = (
        [point.calibrated_kl_per_token or None for point in curve],
        [point.svd_kl_per_token or None for point in curve],
    )
    series: list[Series] = [
        Lines("calibrated", sizes, calibrated, marked=True),
        Lines("SVD, one rank for all", sizes, svd, marked=True, dashed=True),
    ]
    chosen = ""
    if report.prediction is not None:
        name = "this plan" if isinstance(report, CompressionPlan) else "this adapter"
        params = sum(  # without the zeros of padded modules
            row.new_params * row.new_rank // row.stored_rank
            if isinstance(row, ModuleResult) and row.stored_rank
            else row.new_params
            for row in report.modules
        )
        series.append(Points(name, [params], [report.prediction.kl_per_token or None], labels=[name]))
        chosen = f"; {name} has {count(params)} and {sig(report.prediction.kl_per_token)}"
    smallest = curve[0]
    return Plot(
        "kl",
        "Predicted KL by size",
        Axis("LoRA parameters", scale="log"),
        Axis("predicted KL", "nats per scored token", "log"),
        series,
        f"At {count(smallest.params)} LoRA parameters the predicted KL is {sig(smallest.calibrated_kl_per_token)} nats"
        f" per scored token calibrated, and {sig(smallest.svd_kl_per_token)} by SVD{chosen}.",
    )


# ---------------------------------------------------------------- many adapters


def slots_plot(report: FleetReport) -> Plot | None:
    """Return the bytes of one slot of a server at each max_lora_rank; None if no slot has a size."""
    bases = [base for base in _largest(report) if base.slot_bytes is not None and base.max_lora_rank]
    if not bases:
        return None
    ranks = _ranks(bases)
    bars: list[BarSeries] = []
    for base in bases:
        sizes = {step.max_lora_rank: step.slot_bytes for step in base.steps}
        sizes[base.max_lora_rank or 0] = base.slot_bytes or 0
        bars.append(BarSeries(_name(base), [sizes.get(rank) for rank in ranks]))
    first = bases[0]
    lowest = f", {size(first.steps[-1].slot_bytes)} at {first.steps[-1].max_lora_rank}" if first.steps else ""
    return Plot(
        "slots",
        "Memory of one slot",
        Axis("max_lora_rank", categories=[str(rank) for rank in ranks]),
        Axis("one slot", low=0.0, form="bytes"),
        bars,
        f"One slot for {_name(first)} takes {size(first.slot_bytes or 0)} at max_lora_rank"
        f" {first.max_lora_rank}{lowest}.",
    )


def steps_plot(report: FleetReport) -> Plot | None:
    """Return the error of adapters truncated to a lower max_lora_rank, or None if no error is known."""
    bases = [
        base for base in _largest(report) if any(step.lost_energy_max is not None for step in base.steps)
    ]
    if not bases:
        return None
    ranks = _ranks(bases)
    series: list[Series] = []
    for base in bases:
        steps = sorted(base.steps, key=lambda step: step.max_lora_rank)
        at = [ranks.index(step.max_lora_rank) for step in steps]
        hover = [
            f"max_lora_rank {step.max_lora_rank}\n{count(step.truncated)} of {plural(base.adapters, 'adapter')}"
            f" truncated\nerror {percent(weight_error(step.lost_energy_median))} at the median,"
            f" {percent(weight_error(step.lost_energy_max))} at most"
            for step in steps
        ]
        largest = [weight_error(step.lost_energy_max) for step in steps]
        series.append(Lines(f"{_name(base)}, largest", at, largest, marked=True, hover=hover))
        if len(bases) == 1:
            middle = [weight_error(step.lost_energy_median) for step in steps]
            series.append(Lines(f"{_name(base)}, median", at, middle, marked=True, dashed=True, hover=hover))
    first, step = bases[0], bases[0].steps[0]
    return Plot(
        "steps",
        "Error at a lower max_lora_rank",
        Axis("max_lora_rank", categories=[str(rank) for rank in ranks]),
        Axis("error", low=0.0, form="share"),
        series,
        f"max_lora_rank {step.max_lora_rank} truncates {count(step.truncated)} of"
        f" {plural(first.adapters, 'adapter')} of {_name(first)}. Error: median"
        f" {percent(weight_error(step.lost_energy_median))}, largest {percent(weight_error(step.lost_energy_max))}.",
    )


def _largest(report: FleetReport) -> list[BaseGroup]:
    return sorted(report.bases, key=lambda base: -base.adapters)[:MOST_BASES]


def _ranks(bases: Sequence[BaseGroup]) -> list[int]:
    """Return every max_lora_rank of the bases, from the smallest."""
    lower = {step.max_lora_rank for base in bases for step in base.steps}
    return sorted(lower | {base.max_lora_rank for base in bases if base.max_lora_rank is not None})


def _name(base: BaseGroup) -> str:
    return base.base_model or "(base not named)"


def truncated_bytes_plot(report: FleetCompression) -> Plot | None:
    """Return the bytes of each adapter before and after, the largest first."""
    rows = [row for row in report.adapters if row.old_bytes is not None and row.new_bytes is not None]
    rows = sorted(rows, key=lambda row: (-(row.old_bytes or 0), row.path))[:MOST_BARS]
    if not rows:
        return None
    return Plot(
        "bytes",
        "Bytes before and after",
        Axis("size", low=0.0, form="bytes"),
        Axis("adapter", categories=[row.path for row in rows]),
        before_after([row.old_bytes for row in rows], [row.new_bytes for row in rows]),
        f"All written adapters: {size(report.old_bytes)} before, {size(report.new_bytes)} after.",
    )


def truncated_error_plot(report: FleetCompression) -> Plot | None:
    """Return the relative error of each adapter's update, the largest first."""
    rows = [(row.path, row.measured_error) for row in report.adapters]
    title = "Relative error of the update"
    return largest_plot("error", title, "relative error", rows, form="share", noun="adapter")


# ---------------------------------------------------------------- a plan


def memory_plot(report: BenchForecast | EvaluationForecast | ShrinkForecast) -> Plot | None:
    """Return the memory of each part; None if the shape of the model is unknown."""
    parts = report.memory
    if not parts:
        return None
    known = {name: part for name, part in parts.items() if part}
    return Plot(
        "memory",
        "Memory",
        Axis("size", low=0.0, form="bytes"),
        Axis("", categories=list(known)),
        [BarSeries("bytes", list(known.values()))],
        f"About {size(sum(known.values()))} in total; base model {size(known['base'])}.",
    )


def margins_plot(report: EvaluationForecast | ShrinkForecast) -> Plot | None:
    """Return the smallest margin by discordance; None if likelihoods are compared."""
    if not report.margins:
        return None
    margin = report.plan.margin if isinstance(report, ShrinkForecast) else report.margin
    rows = sorted(report.margins, key=lambda row: row.discordance)
    discordances, margins = [row.discordance for row in rows], [100 * row.margin for row in rows]
    return Plot(
        "margins",
        "Smallest drop that can be ruled out",
        Axis("discordance", low=0.0, form="share"),
        Axis("smallest margin", "points", low=0.0),
        [Lines("80 % power", discordances, margins, marked=True)],
        f"At a discordance of {percent(rows[-1].discordance)}, a drop of {in_points(rows[-1].margin)} points can be"
        " ruled out.",
        [Reference(100 * float(margin), "margin", tone="bad")],
    )


def power_plot(report: PowerReport | BenchForecast) -> Plot | None:
    """Return power and chance of PASS for each scenario; None without scenarios."""
    scenarios = report.scenarios
    if not scenarios:
        return None
    names: list[str] = []
    for row in scenarios:  # names may repeat
        spread = f" ± {100 * row.spread:.3g}" if row.spread else ""
        names.append(f"{row.name}, {percent(row.discordance)}{spread}")
    chances: dict[str, Sequence[float | None]] = {
        "power, these runs": [row.power_these_runs for row in scenarios],
        "power, mean over trainings": [row.power_over_trainings for row in scenarios],
        "PASS if equal": [row.pass_if_equal for row in scenarios],
        "PASS if worse by two margins": [row.pass_if_worse for row in scenarios],
    }
    best = max(row.power_these_runs for row in scenarios)
    return Plot(
        "power",
        "Power of the planned examples and seeds",
        Axis("chance", low=0.0, high=1.0, form="share"),
        Axis("variant, discordance ± spread", categories=names),
        [BarSeries(name, values) for name, values in chances.items() if set(values) != {None}],
        f"Power for non-inferiority of these runs: {chance(best)} in the best case.",
    )
