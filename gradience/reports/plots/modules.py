"""Plots of an audit: the map of modules, singular values, and energy."""

from collections.abc import Callable, Sequence
from statistics import median

import numpy as np

from gradience.reports.audit import AuditReport, LayerAudit, k_label, trained_layers
from gradience.reports.base.modules import by_kind, layer_map, short_labels
from gradience.reports.base.numbers import count, number_range, percent, plural, sig, trimmed
from gradience.reports.plots.plot import Axis, Image, Lines, Plot, Reference
from gradience.spectra import FloatArray, cumulative_energy

MOST_KINDS = 400
"""Rows of a map, which scrolls on a page."""
MOST_MEDIANS = 8
"""Maximum number of kinds with a line: those with the most parameters."""


def heatmap_plot(report: AuditReport) -> Plot | None:
    """Return the share of its rank that each module needs: kinds down, layers across, for the largest stack.

    Several modules in one cell (experts) show their median.
    """
    stack = layer_map(report.layers, lambda layer: layer.params, MOST_KINDS)
    if not stack.rows:
        return None

    def share(cell: Sequence[LayerAudit]) -> float | None:
        shares = [k / layer.r for layer in cell if (k := layer.energy_rank_tau) is not None]
        return float(median(shares)) if shares else None

    values = [[share(cell) for cell in cells] for _, cells in stack.rows]
    known = sorted(figure for row in values for figure in row if figure is not None)
    spread = "not measured"
    if known:
        spread = f"{percent(known[0])} to {percent(known[-1])}, median {percent(median(known))}"
    label, elsewhere = k_label(report.tau), len(stack.outside)
    title = f"{label} / rank"
    rest = f"; {plural(elsewhere, 'module')} outside this stack left out" if elsewhere else ""
    more = f"; {plural(stack.hidden, 'kind')} left out" if stack.hidden else ""
    color = Axis(f"{label} / r", low=0.0, high=1.0, form="share")
    return Plot(
        "heatmap",
        title,
        Axis("layer", categories=list(map(str, stack.layers))),
        Axis("module", categories=[name for name, _ in stack.rows]),
        [Image(values, color)],
        f"{title} of {plural(report.n_layers - elsewhere, 'module')}: {spread}{rest}{more}.",
    )


def spectrum_plot(report: AuditReport) -> Plot | None:
    """Return the singular values relative to the largest: the median module of each kind."""
    layers = _with_spectrum(report)
    if not layers:
        return None
    lines = _lines(layers, lambda values: values / values[0])
    return Plot(
        "spectrum",
        "Singular values",
        Axis("direction", form="count"),
        Axis("σ over the largest σ", scale="log"),
        lines,
        f"Singular values of {plural(len(layers), 'module')}, relative to each module's largest; the median stable"
        f" rank is {sig(report.stable_rank_median)} of r = {number_range(layer.r for layer in layers)}.",
    )


def energy_plot(report: AuditReport) -> Plot | None:
    """Return the share of energy in the leading k directions, median of each kind, with the threshold of the audit."""
    layers = _with_spectrum(report)
    if not layers:
        return None
    ranks = [layer.energy_rank_tau for layer in layers if layer.energy_rank_tau is not None]
    lines = _lines(layers, cumulative_energy)
    return Plot(
        "energy",
        "Cumulative energy",
        Axis("directions kept, k", form="count"),
        Axis("energy kept", low=0.0, high=1.0, form="share"),
        lines,
        f"{100 * report.tau:.6g} % of the energy needs {trimmed(float(np.median(ranks)))} directions in the median"
        f" module and {max(ranks)} at most, of r = {number_range(layer.r for layer in layers)}.",
        [Reference(report.tau, f"{100 * report.tau:.6g} %")],
    )


def _with_spectrum(report: AuditReport) -> list[LayerAudit]:
    return [layer for layer in trained_layers(report) if layer.singular_values]


def _lines(layers: Sequence[LayerAudit], curve: Callable[[FloatArray], FloatArray]) -> list[Lines]:
    """Return a line for each kind: the median, at each k, of its modules with at least k values."""
    lines: list[Lines] = []
    kinds, _ = by_kind(layers, lambda layer: layer.params, MOST_MEDIANS)
    labels = short_labels([kind for kind, _ in kinds])
    for kind, members in kinds:
        of_kind = [curve(np.array(layer.singular_values)) for layer in members]
        longest = max(map(len, of_kind))
        medians = [
            float(np.median([values[k] for values in of_kind if len(values) > k])) for k in range(longest)
        ]
        lines.append(Lines(f"{labels[kind]} ({count(len(members))})", list(range(1, longest + 1)), medians))
    return lines
