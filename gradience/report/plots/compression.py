"""What smaller adapters are made of and predicted to cost: ranks, parameters and bytes before and after, the energy
that each module keeps, and the curve of predicted KL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gradience.report.audit.heat import short_labels
from gradience.report.compression.totals import padding
from gradience.report.compression.where import error_of
from gradience.report.plots.maps import map_plot
from gradience.report.plots.plot import Axis, BarsOf, Form, Lines, Plot, Points, Series
from gradience.reports.audit import AuditReport
from gradience.reports.base.modules import by_kind
from gradience.reports.base.numbers import count, number_range, percent, plural, sig, size
from gradience.reports.compression import CompressionPlan, CompressionReport, ModulePlan, ModuleResult

Compression = CompressionReport | CompressionPlan
Module = ModulePlan | ModuleResult
MOST_KINDS = 24


def ranks_plot(report: Compression) -> Plot | None:
    """Return how many modules have which rank, before and after."""
    before = Counter(row.old_rank for row in report.modules)
    after = Counter(row.new_rank for row in report.modules)
    ranks = sorted(before | after)
    if not ranks:
        return None
    places = list(range(len(ranks)))
    return Plot(
        "ranks",
        "Ranks before and after",
        Axis("rank", scale="categories", categories=[str(rank) for rank in ranks]),
        Axis("modules", low=0.0, form="count"),
        [
            BarsOf("before", places, [before[rank] for rank in ranks], tone="dim"),
            BarsOf("after", places, [after[rank] for rank in ranks], tone="accent"),
        ],
        f"Ranks of {plural(len(report.modules), 'module')}: {number_range(before)} before,"
        f" {number_range(after)} after.",
    )


def parameters_plot(report: Compression) -> Plot | None:
    """Return the LoRA parameters of each kind of modules, before and after."""
    return _sizes(report, "parameters", "LoRA parameters", "number")


def bytes_plot(report: Compression) -> Plot | None:
    """Return the bytes of each kind of modules, before and after."""
    return _sizes(report, "bytes", "Bytes", "bytes")


def _sizes(report: Compression, name: str, what: str, form: Form) -> Plot | None:
    field = {"parameters": "params", "bytes": "bytes"}[name]
    modules: Sequence[Module] = report.modules

    def total(members: Sequence[Module], when: str) -> int:
        return sum(getattr(module, f"{when}_{field}") for module in members)

    kinds, hidden = by_kind(modules, lambda module: module.old_params, MOST_KINDS)
    if not kinds:
        return None
    labels = short_labels([kind for kind, _ in kinds])
    places = list(range(len(kinds)))
    figure = size if form == "bytes" else count
    more = f"; {plural(hidden, 'kind')} left out" if hidden else ""
    return Plot(
        name,
        f"{what} before and after",
        Axis(what if form == "number" else "size", low=0.0, form=form),
        Axis("module", scale="categories", categories=[labels[kind] for kind, _ in kinds]),
        [
            BarsOf("before", places, [total(members, "old") for _, members in kinds], lying=True, tone="dim"),
            BarsOf(
                "after", places, [total(members, "new") for _, members in kinds], lying=True, tone="accent"
            ),
        ],
        f"{what} of {plural(len(modules), 'module')}, by kind: {figure(total(modules, 'old'))} before,"
        f" {figure(total(modules, 'new'))} after{more}.",
    )


def kept_plot(report: Compression) -> Plot | None:
    """Return the energy that each module keeps: kinds down, layers across; where the pointer is, all that changes."""
    modules: Sequence[Module] = report.modules
    return map_plot(
        modules,
        "kept",
        "Energy kept",
        Axis("energy kept", high=1.0, form="share"),
        value=lambda module: module.kept_energy,
        said=_said,
        weight=lambda module: module.old_params,
    )


def _said(module: Module) -> str:
    return (
        f"{module.name}\nrank {module.old_rank} → {module.new_rank}, {count(module.old_params)} →"
        f" {count(module.new_params)} parameters, {size(module.old_bytes)} → {size(module.new_bytes)}\n"
        f"energy kept {percent(module.kept_energy)}, error {sig(error_of(module))}"
    )


def kl_plot(report: AuditReport | Compression) -> Plot | None:
    """Return the predicted KL at each size, of calibrated components and of those of the SVD, and where the smaller
    adapter stands; nothing without a calibration."""
    curve = (
        report.curve
        if not isinstance(report, AuditReport)
        else report.effects.curve
        if report.effects
        else ()
    )
    curve = tuple(sorted(curve, key=lambda point: point.params))
    if not curve:
        return None
    sizes = [point.params for point in curve]
    series: list[Series] = [
        Lines("calibrated", sizes, [point.calibrated_kl or None for point in curve], marked=True),
        Lines(
            "SVD, one rank for all",
            sizes,
            [point.svd_kl or None for point in curve],
            marked=True,
            dashed=True,
        ),
    ]
    chosen = ""
    if not isinstance(report, AuditReport) and report.prediction is not None:
        name = "this plan" if isinstance(report, CompressionPlan) else "this adapter"
        params = report.new_params - padding(report.modules)
        series.append(Points(name, [params], [report.prediction.kl or None], labels=[name]))
        chosen = f"; {name} has {count(params)} and {sig(report.prediction.kl)}"
    smallest = curve[0]
    return Plot(
        "kl",
        "Predicted KL by size",
        Axis("LoRA parameters", scale="log"),
        Axis("predicted KL", "nats per scored token", "log"),
        series,
        f"At {count(smallest.params)} LoRA parameters the predicted KL is {sig(smallest.calibrated_kl)} nats per scored"
        f" token calibrated, and {sig(smallest.svd_kl)} by SVD{chosen}.",
    )
