"""Where an adapter uses its rank: the map of kinds of modules and layers, and how many modules need how many
directions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

from gradience.artifacts.audit import AuditReport, LayerAudit
from gradience.report.audit.heat import short_labels, stack_of
from gradience.report.audit.view import k_label, trained_layers
from gradience.report.charts import sparkline
from gradience.report.modules import by_kind
from gradience.report.numbers import count, percent, sig, trimmed
from gradience.report.plots.plot import Axis, Histogram, Image, Plot, Reference

MOST_KINDS = 40
SPECTRUM = 32
"""Signs of a spectrum in the words of a cell."""
MOST_BINS = 64


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
        Axis(label, low=0.5, high=edges[-1]),
        Axis("modules"),
        [Histogram("modules", edges, counts)],
        f"{label} of {count(len(ranks))} modules: {trimmed(float(median(ranks)))} at the median, from {min(ranks)} to"
        f" {max(ranks)}, where the largest rank is {largest}.",
        references,
    )


# ---------------------------------------------------------------- the map


def _share(layer: LayerAudit) -> float | None:
    return None if layer.energy_rank_tau is None else layer.energy_rank_tau / layer.r


def _map(
    report: AuditReport, name: str, title: str, color: Axis, value: Callable[[LayerAudit], float | None]
) -> Plot | None:
    """A map of the stack with the most modules; nothing where no module belongs to a layer."""
    inside = [layer for layer in report.layers if layer.layer_index is not None]
    if not inside:
        return None
    stacks = Counter(map(stack_of, inside))
    stack = min(stacks, key=lambda each: (-stacks[each], each))
    layers = [layer for layer in inside if stack_of(layer) == stack]
    indices = sorted({layer.layer_index for layer in layers if layer.layer_index is not None})
    kinds, hidden = by_kind(layers, lambda layer: layer.params, MOST_KINDS)
    labels = short_labels([kind for kind, _ in kinds])
    cells = [
        [[layer for layer in members if layer.layer_index == index] for index in indices]
        for _, members in kinds
    ]
    values = [[_median([value(layer) for layer in cell]) for cell in row] for row in cells]
    left_out = len(report.layers) - len(layers)
    rest = f"; {count(left_out)} modules elsewhere are not in it" if left_out else ""
    more = f"; {count(hidden)} kinds are left out" if hidden else ""
    shown = sorted(each for row in values for each in row if each is not None)
    form = percent if color.form == "share" else sig
    spread = "not measured"
    if shown:
        spread = f"from {form(shown[0])} to {form(shown[-1])}, {form(median(shown))} at the median"
    return Plot(
        name,
        title,
        Axis("layer", scale="categories", categories=[str(index) for index in indices]),
        Axis("module", scale="categories", categories=[labels[kind] for kind, _ in kinds]),
        [Image(title, values, [[_said(cell) for cell in row] for row in cells], color)],
        f"{color.title} of {count(len(layers))} modules, {spread}{rest}{more}.",
    )


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _said(cell: Sequence[LayerAudit]) -> str:
    """The module behind a cell, and its spectrum in signs; of several (experts) how many."""
    if not cell:
        return ""
    first = cell[0]
    if len(cell) > 1:
        return f"{first.family}\nmedian of {count(len(cell))} modules"
    if first.status != "ok":
        return f"{first.label}\n{first.status}"
    spectrum = sparkline(first.singular_values, SPECTRUM).text
    ranks = f"k@90 {first.energy_rank_90}, k@99 {first.energy_rank_99} of r = {first.r}"
    return f"{first.label}\n{ranks}, stable rank {sig(first.stable_rank)}\n{spectrum}"
