"""Spectra of an audit: singular values, and the energy that the leading directions hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gradience.report.audit.heat import short_labels
from gradience.report.audit.view import k_label, trained_layers
from gradience.report.plots.plot import Axis, Lines, Plot, Reference
from gradience.report.plots.steps import shades_said
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base.modules import by_kind
from gradience.reports.base.numbers import count, number_range, plural, sig, trimmed
from gradience.spectra import FloatArray, cumulative_energy

MOST_LINES = 64
"""Modules that have a line each; of more, each kind has its median and a band."""
MOST_KINDS = 8
MOST_BANDS = 2
"""Bands that lie on each other hide each other."""
BAND = (10, 90)

Curve = Callable[[FloatArray], FloatArray]


def spectrum_plot(report: AuditReport) -> Plot | None:
    """Return the singular values of each module over its largest; of many modules those of each kind."""
    layers = _with_spectrum(report)
    if not layers:
        return None
    lines = _lines(layers, lambda values: values / values[0])
    median = trimmed(report.stable_rank_median)
    return Plot(
        "spectrum",
        "Singular values",
        Axis("direction", form="count"),
        Axis("σ over the largest σ", scale="log"),
        lines,
        f"Singular values of {plural(len(layers), 'module')}, each over its largest; the median stable rank is {median}"
        f" of r = {number_range(layer.r for layer in layers)}.{shades_said(lines)}",
    )


def energy_plot(report: AuditReport) -> Plot | None:
    """Return the share of a module's energy that its leading k directions hold, with the threshold of the audit."""
    layers = _with_spectrum(report)
    if not layers:
        return None
    ranks = [layer.energy_rank_tau for layer in layers if layer.energy_rank_tau is not None]
    lines = _lines(layers, cumulative_energy)
    return Plot(
        "energy",
        "Cumulative energy",
        Axis("directions kept, k", form="count"),
        Axis("energy held", low=0.0, high=1.0, form="share"),
        lines,
        f"{100 * report.tau:.6g} % of the energy needs {trimmed(float(np.median(ranks)))} of the directions in the"
        f" median module, and {max(ranks)} in the one that needs most, of r ="
        f" {number_range(layer.r for layer in layers)}.{shades_said(lines)}",
        [Reference(report.tau, k_label(report.tau))],
    )


def _with_spectrum(report: AuditReport) -> list[LayerAudit]:
    return [layer for layer in trained_layers(report) if layer.singular_values]


def _lines(layers: Sequence[LayerAudit], curve: Curve) -> list[Lines]:
    curves = [curve(np.array(layer.singular_values)) for layer in layers]
    if len(layers) <= MOST_LINES:
        return [
            _line(layer, values, _depth(layer, layers)) for layer, values in zip(layers, curves, strict=True)
        ]
    of_layer = {id(layer): values for layer, values in zip(layers, curves, strict=True)}
    kinds, _ = by_kind(layers, lambda layer: layer.params, MOST_KINDS)
    labels = short_labels([kind for kind, _ in kinds])
    banded = len(kinds) <= MOST_BANDS
    return [
        _band(labels[kind], [of_layer[id(layer)] for layer in members], banded=banded)
        for kind, members in kinds
    ]


def _depth(layer: LayerAudit, layers: Sequence[LayerAudit]) -> float:
    """Where its layer stands between the first (0) and the last (1)."""
    indices = [each.layer_index for each in layers if each.layer_index is not None]
    if layer.layer_index is None or not indices or min(indices) == max(indices):
        return 0.0
    return (layer.layer_index - min(indices)) / (max(indices) - min(indices))


def _line(layer: LayerAudit, values: FloatArray, depth: float) -> Lines:
    at = list(range(1, len(values) + 1))
    said = f"{layer.label}\nr = {layer.r}, stable rank {sig(layer.stable_rank)}"
    return Lines(layer.label, at, values.tolist(), shade=depth, hover=[said] * len(at))


def _band(name: str, curves: Sequence[FloatArray], *, banded: bool) -> Lines:
    """The median of several modules, and the 10th and the 90th percentile: at each k over those that have as many."""
    longest = max(map(len, curves))
    cells = [[float(values[k]) for values in curves if len(values) > k] for k in range(longest)]
    low, median, high = (
        [float(np.percentile(cell, share)) for cell in cells] for share in (BAND[0], 50, BAND[1])
    )
    return Lines(
        f"{name} ({count(len(curves))})",
        list(range(1, longest + 1)),
        median,
        low if banded else (),
        high if banded else (),
        band="10th to 90th percentile" if banded else "",
    )
