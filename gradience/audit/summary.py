"""The rows of an audit -> what holds for the whole adapter: means and percentiles, and where the energy sits. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from gradience import ranks
from gradience.adapters.families import MODULE_TYPES, ModuleType
from gradience.reports.audit import Gain, LayerAudit, LayerGain, TypeSummary


def _values(layers: Iterable[LayerAudit], name: str) -> list[float]:
    return [value for layer in layers if (value := getattr(layer, name)) is not None]


def summary_of(trained: Sequence[LayerAudit]) -> dict[str, Any]:
    """Means, medians and percentiles over the trained modules; nothing where there are none."""
    if not trained:
        return {}
    stable = _values(trained, "stable_rank")
    weights = [layer.params for layer in trained]
    measures: dict[str, float | None] = {
        "stable_rank_mean": fmean(stable),
        "stable_rank_median": median(stable),
        "stable_rank_weighted_mean": fmean(stable, weights),
        "effective_rank_mean": fmean(_values(trained, "effective_rank")),
        "utilization_mean": fmean(_values(trained, "utilization")),
        "utilization_median": median(_values(trained, "utilization")),
    }
    for name in ("rank_use", "null_position"):
        values = _values(trained, name)
        measures[f"{name}_median"] = median(values) if values else None
    for percent in (90, 95, 99):
        energy_ranks = _values(trained, f"energy_rank_{percent}")
        measures[f"energy_rank_{percent}_p50"] = float(ranks.percentile(energy_ranks, 50))
        measures[f"energy_rank_{percent}_p90"] = float(ranks.percentile(energy_ranks, 90))
    return measures


def summary_by_type(layers: Sequence[LayerAudit]) -> dict[ModuleType, TypeSummary]:
    summaries = {}
    for kind in MODULE_TYPES:
        members = [layer for layer in layers if layer.module_type == kind]
        if not members:
            continue
        summary = summary_of([layer for layer in members if layer.status == "ok"])
        summaries[kind] = TypeSummary(
            n_layers=len(members),
            params=sum(layer.params for layer in members),
            stable_rank_mean=summary.get("stable_rank_mean"),
            utilization_mean=summary.get("utilization_mean"),
            energy_rank_90_p50=summary.get("energy_rank_90_p50"),
            energy_rank_90_p90=summary.get("energy_rank_90_p90"),
        )
    return summaries


def gain_of(trained: Sequence[LayerAudit]) -> Gain | None:
    """Norms and where the energy sits; None where some scale is unknown or everything is 0."""
    if not trained or any(layer.fro_norm is None for layer in trained):
        return None
    norms = {layer.label: layer.fro_norm or 0.0 for layer in trained}
    peak = max(norms.values())
    if peak == 0.0:
        return None
    # Energies relative to the largest norm: squares of norms beyond 1e154 would overflow.
    energies = [(norm / peak) ** 2 for norm in norms.values()]
    total = sum(energies)
    per_layer: dict[str, float] = defaultdict(float)
    for layer, energy in zip(trained, energies, strict=True):
        per_layer[layer.layer or "(outside the layers)"] += energy
    shares = {name: energy / total for name, energy in per_layer.items()}
    ordered = sorted(zip(norms, energies, strict=True), key=lambda item: -item[1])
    top = ordered[: max(1, round(len(ordered) / 10))]
    largest = float(np.finfo(np.float64).max)
    return Gain(
        fro_norm_total=min(peak * total**0.5, largest),
        sigma_max=max(layer.sigma_max or 0.0 for layer in trained),
        per_layer=tuple(
            LayerGain(layer=name, energy=min(per_layer[name] * peak * peak, largest), share=share)
            for name, share in shares.items()
        ),
        top_modules=tuple(name for name, _ in ordered[:10]),
        top_modules_share=sum(energy for _, energy in top) / total,
        hhi=sum(share * share for share in shares.values()),
    )
