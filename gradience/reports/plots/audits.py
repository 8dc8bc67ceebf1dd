"""Plots of an audit: maps, directions needed, spectra, energy; for several checkpoints the change over steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median

import numpy as np

from gradience.reports.audit import AuditReport, LayerAudit, k_label, trained_layers
from gradience.reports.audit_series import step_number
from gradience.reports.base.charts import sparkline
from gradience.reports.base.modules import by_kind, short_labels
from gradience.reports.base.numbers import count, number_range, plural, sig, trimmed
from gradience.reports.calibration import CalibrationReport
from gradience.reports.plots.plot import Axis, BarSeries, Lines, Plot, Reference, Tone
from gradience.reports.plots.shared import LAYER, STEP, largest_plot, map_plot, shaded, shades_said
from gradience.spectra import FloatArray, cumulative_energy

SPECTRUM = 32
"""Characters of a spectrum in the text of a cell."""
MOST_BINS = 64
ABOVE_BARS = 1.4
"""Height of the plot relative to the highest bar, for the line labels above the bars."""
MOST_LINES = 64
"""Maximum number of modules with a line each; above it, each kind has its median and a band."""
MOST_KINDS = 8
MOST_BANDS = 2
"""Maximum number of bands: overlapping bands hide each other."""
BAND = (10, 50, 90)


def heatmap_plot(report: AuditReport) -> Plot | None:
    """Return the share of its rank that each module needs: kinds down, layers across."""
    label = k_label(report.tau)
    color = Axis(f"{label} of r", low=0.0, high=1.0, form="share")

    def share(layer: LayerAudit) -> float | None:
        return None if layer.energy_rank_tau is None else layer.energy_rank_tau / layer.r

    return _map(report, "heatmap", f"{label}, as a share of the rank", color, share)


def stable_rank_plot(report: AuditReport) -> Plot | None:
    """Return the stable rank of each module: kinds down, layers across."""
    color = Axis("stable rank", low=1.0)
    return _map(report, "stable-rank", "Stable rank", color, lambda layer: layer.stable_rank)


def _map(
    report: AuditReport, name: str, title: str, color: Axis, value: Callable[[LayerAudit], float | None]
) -> Plot | None:
    def hover(layer: LayerAudit) -> str:
        if layer.status != "ok":
            return f"{layer.label}\n{layer.status}"
        spectrum = sparkline(layer.singular_values, SPECTRUM).text
        ranks = f"k@90 {layer.energy_rank_90}, k@99 {layer.energy_rank_99} of r = {layer.r}"
        return f"{layer.label}\n{ranks}, stable rank {sig(layer.stable_rank)}\n{spectrum}"

    return map_plot(
        report.layers, name, title, color, value=value, hover=hover, weight=lambda layer: layer.params
    )


def use_plot(report: AuditReport) -> Plot | None:
    """Return the number of modules by directions needed, beside the suggestions and the rank."""
    layers = trained_layers(report)
    ranks = [layer.energy_rank_tau for layer in layers if layer.energy_rank_tau is not None]
    if not ranks:
        return None
    largest = max(layer.r for layer in layers)
    width = -(-largest // MOST_BINS)
    edges = range(1, largest + width + 1, width)
    bins = list(pairwise(edges))
    counts = Counter((rank - 1) // width for rank in ranks)
    lines: list[tuple[float, str, Tone]] = [(largest, f"r = {largest}", "dim")]
    if report.suggestions is not None:
        lines.append((report.suggestions.median.unrounded, "median", "accent"))
        lines.append((report.suggestions.p90.unrounded, "90th percentile", "accent"))
    label = k_label(report.tau)
    return Plot(
        "use",
        f"Directions with {100 * report.tau:.6g} % of the energy",
        Axis(label, categories=[str(low) if width == 1 else f"{low} – {high - 1}" for low, high in bins]),
        Axis("modules", low=0.0, high=ABOVE_BARS * max(counts.values()), form="count"),
        [BarSeries("modules", [counts[place] for place in range(len(bins))])],
        f"{label} of {plural(len(ranks), 'module')}: median {trimmed(float(median(ranks)))}, {min(ranks)} to"
        f" {max(ranks)}; the largest rank is {largest}.",
        [Reference((at - 0.5) / width - 0.5, text, on="x", tone=tone) for at, text, tone in lines],
    )


def importance_plot(report: CalibrationReport) -> Plot | None:
    """Return the predicted KL of leaving out each module's update, the largest first."""
    rows = [(row.name, row.importance) for row in report.modules]
    title = "KL if a module is removed"
    return largest_plot("importance", title, "predicted KL", rows, "nats per token")


# ---------------------------------------------------------------- spectra


def spectrum_plot(report: AuditReport) -> Plot | None:
    """Return the singular values of each module relative to its largest; for many modules those of each kind."""
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
        f"Singular values of {plural(len(layers), 'module')}, relative to the largest of the module; the median stable"
        f" rank is {trimmed(report.stable_rank_median)} of r = {number_range(layer.r for layer in layers)}."
        f"{shades_said(lines)}",
    )


def energy_plot(report: AuditReport) -> Plot | None:
    """Return the share of a module's energy in its leading k directions, with the threshold of the audit."""
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
        f" module and {max(ranks)} at most, of r = {number_range(layer.r for layer in layers)}.{shades_said(lines)}",
        [Reference(report.tau, k_label(report.tau))],
    )


def _with_spectrum(report: AuditReport) -> list[LayerAudit]:
    return [layer for layer in trained_layers(report) if layer.singular_values]


def _lines(layers: Sequence[LayerAudit], curve: Callable[[FloatArray], FloatArray]) -> list[Lines]:
    """Return a line for each module, shaded by its layer; for many modules the median of each kind, and for
    few kinds the 10th and the 90th percentile, at each k over the modules with at least k values."""
    curves = {id(layer): curve(np.array(layer.singular_values)) for layer in layers}
    lines: list[Lines] = []
    if len(layers) <= MOST_LINES:
        indices = [layer.layer_index for layer in layers if layer.layer_index is not None]
        first, last = min(indices, default=0), max(indices, default=0)
        for layer in layers:
            depth = ((layer.layer_index or 0) - first) / (last - first) if last > first else 0.0
            at = list(range(1, len(layer.singular_values) + 1))
            hover = f"{layer.label}\nr = {layer.r}, stable rank {sig(layer.stable_rank)}"
            values = curves[id(layer)].tolist()
            lines.append(Lines(layer.label, at, values, shade=max(0.0, depth), hover=[hover] * len(at)))
        return lines
    kinds, _ = by_kind(layers, lambda layer: layer.params, MOST_KINDS)
    labels = short_labels([kind for kind, _ in kinds])
    for kind, members in kinds:
        of_kind = [curves[id(layer)] for layer in members]
        longest = max(map(len, of_kind))
        cells = [[float(values[k]) for values in of_kind if len(values) > k] for k in range(longest)]
        low, middle, high = ([float(np.percentile(cell, share)) for cell in cells] for share in BAND)
        banded = len(kinds) <= MOST_BANDS
        name = f"{labels[kind]} ({count(len(members))})"
        lines.append(
            Lines(name, list(range(1, longest + 1)), middle, low if banded else (), high if banded else ())
        )
    return lines


# ---------------------------------------------------------------- several checkpoints


def evolution_plots(reports: Sequence[AuditReport]) -> list[Plot]:
    """Return the use of rank over the audits of several checkpoints, and the stable rank of each layer.

    reports: in order. The position of a report is the step in its name, otherwise its number in the sequence.
    """
    steps = [step_number(report) for report in reports]
    known = [step for step in steps if step is not None]
    ordered = len(known) == len(steps) and known == sorted(set(known))
    at = known if ordered else list(range(1, len(reports) + 1))
    axis = STEP if ordered else Axis("checkpoint")
    first, last = reports[0], reports[-1]
    use = Plot(
        "rank",
        "Directions needed over checkpoints",
        axis,
        Axis("directions", low=0.0),
        [
            Lines("k@90, median module", at, [audit.energy_rank_90_p50 for audit in reports], marked=True),
            Lines("k@90, 90th percentile", at, [audit.energy_rank_90_p90 for audit in reports], marked=True),
            Lines("stable rank, median", at, [audit.stable_rank_median for audit in reports], marked=True),
        ],
        f"k@90 of the median module changes from {trimmed(first.energy_rank_90_p50)} to"
        f" {trimmed(last.energy_rank_90_p50)}, the median stable rank from {sig(first.stable_rank_median)} to"
        f" {sig(last.stable_rank_median)}.",
    )
    layers: dict[str, list[float | None]] = {}
    for place, report in enumerate(reports):
        values: dict[tuple[int, str], list[float]] = {}
        for layer in trained_layers(report):
            if layer.layer is not None and layer.stable_rank is not None:
                values.setdefault((layer.layer_index or 0, layer.layer), []).append(layer.stable_rank)
        for (_, name), ranks in sorted(values.items()):
            layers.setdefault(name, [None] * len(reports))[place] = float(median(ranks))
    lines = shaded(layers, at)
    by_layer = Plot(
        "stable-rank-by-layer",
        "Stable rank of each layer",
        axis,
        LAYER,
        lines,
        f"Median stable rank of {count(len(layers))} layers over {count(len(reports))} checkpoints."
        f"{shades_said(lines)}",
    )
    return [use, by_layer]
