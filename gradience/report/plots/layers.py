"""Where an adapter uses its rank: the map of kinds of modules and layers, and how many modules need how many
directions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import median

from gradience.report.audit.view import k_label, trained_layers
from gradience.report.plots.maps import map_plot
from gradience.report.plots.plot import Axis, Histogram, Plot, Reference
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base.charts import sparkline
from gradience.reports.base.numbers import plural, sig, trimmed

SPECTRUM = 32
"""Signs of a spectrum in the words of a cell."""
MOST_BINS = 64
ABOVE_BARS = 1.4
"""Room above the highest bar, for the names of the lines that stand there."""


def heatmap_plot(report: AuditReport) -> Plot | None:
    """Return the share of its rank that each module needs: kinds down, layers across."""
    label = k_label(report.tau)
    color = Axis(f"{label} of r", low=0.0, high=1.0, form="share")
    return _map(report, "heatmap", f"{label}, as a share of the rank", color, _share)


def stable_rank_plot(report: AuditReport) -> Plot | None:
    """Return the stable rank of each module: kinds down, layers across."""
    color = Axis("stable rank", low=1.0)
    return _map(report, "stable-rank", "Stable rank", color, lambda layer: layer.stable_rank)


def use_plot(report: AuditReport) -> Plot | None:
    """Return how many modules need how many directions, beside the suggestions and the rank."""
    ranks = [layer.energy_rank_tau for layer in trained_layers(report) if layer.energy_rank_tau is not None]
    if not ranks:
        return None
    largest = max(layer.r for layer in trained_layers(report))
    width = -(-largest // MOST_BINS)
    edges = [0.5 + width * step for step in range(-(-largest // width) + 1)]
    counts = [sum(low < rank < high for rank in ranks) for low, high in pairwise(edges)]
    references = [Reference(largest, f"r = {largest}", on="x")]
    if report.suggestions is not None:
        references += [
            Reference(report.suggestions.median.unrounded, "median", on="x", tone="accent"),
            Reference(report.suggestions.p90.unrounded, "90th percentile", on="x", tone="accent"),
        ]
    label = k_label(report.tau)
    return Plot(
        "use",
        f"Directions that hold {100 * report.tau:.6g} % of the energy",
        Axis(label, low=0.5, high=edges[-1], form="count"),
        Axis("modules", low=0.0, high=ABOVE_BARS * max(counts), form="count"),
        [Histogram("modules", edges, counts)],
        f"{label} of {plural(len(ranks), 'module')}: {trimmed(float(median(ranks)))} at the median, from {min(ranks)}"
        f" to {max(ranks)}, where the largest rank is {largest}.",
        references,
    )


# ---------------------------------------------------------------- the map


def _share(layer: LayerAudit) -> float | None:
    return None if layer.energy_rank_tau is None else layer.energy_rank_tau / layer.r


def _map(
    report: AuditReport, name: str, title: str, color: Axis, value: Callable[[LayerAudit], float | None]
) -> Plot | None:
    return map_plot(
        report.layers, name, title, color, value=value, said=_said, weight=lambda layer: layer.params
    )


def _said(layer: LayerAudit) -> str:
    """The module behind a cell, and its spectrum in signs."""
    if layer.status != "ok":
        return f"{layer.label}\n{layer.status}"
    spectrum = sparkline(layer.singular_values, SPECTRUM).text
    ranks = f"k@90 {layer.energy_rank_90}, k@99 {layer.energy_rank_99} of r = {layer.r}"
    return f"{layer.label}\n{ranks}, stable rank {sig(layer.stable_rank)}\n{spectrum}"
