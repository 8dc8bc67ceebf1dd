"""Which plots a report has: by the name of its class, kind -> the function that makes it, the most telling first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pkgutil import resolve_name

from gradience.errors import UsageError, did_you_mean
from gradience.report.plots.plot import Plot
from gradience.reports.base.report import Report

COMPARED = {
    "forest": "forest:forest_plot",
    "pareto": "forest:pareto_plot",
    "pairs": "forest:pairs_plot",
}
COMPRESSED = {
    "error": "bars:error_plot",
    "ranks": "compression:ranks_plot",
    "parameters": "compression:parameters_plot",
    "bytes": "compression:bytes_plot",
    "kept": "compression:kept_plot",
}
PLANNED = {
    "margins": "forecasts:margins_plot",
    "memory": "forecasts:memory_plot",
}
KINDS: Mapping[str, Mapping[str, str]] = {
    "AuditReport": {
        "heatmap": "layers:heatmap_plot",
        "energy": "spectra:energy_plot",
        "spectrum": "spectra:spectrum_plot",
        "use": "layers:use_plot",
        "stable-rank": "layers:stable_rank_plot",
        "kl": "compression:kl_plot",
        "importance": "bars:importance_plot",
    },
    "Bench": {**COMPARED, "ladder": "forest:ladder_plot"},
    "BenchAggregate": {**COMPARED, "ladder": "forest:ladder_plot", "operating": "chances:operating_plot"},
    "BenchForecast": {
        "memory": "forecasts:memory_plot",
        "power": "forecasts:scenarios_plot",
    },
    "CalibrationReport": {"importance": "bars:importance_plot"},
    "ComparisonReport": {"difference": "bars:difference_plot"},
    "CompressionPlan": {
        "kl": "compression:kl_plot",
        **COMPRESSED,
    },
    "CompressionReport": {**COMPRESSED, "kl": "compression:kl_plot"},
    "EvaluationForecast": PLANNED,
    "EvaluationReport": COMPARED,
    "EvidenceReport": COMPARED,
    "FleetCompression": {"bytes": "fleet:truncated_bytes_plot", "error": "fleet:truncated_error_plot"},
    "FleetReport": {"steps": "fleet:steps_plot", "slots": "fleet:slots_plot"},
    "DistillReport": {"kl": "steps:distill_plot"},
    "MonitorReport": {
        "loss": "runs:loss_plot",
        "reward": "runs:reward_plot",
        "rank": "runs:rank_plot",
        "stable-rank-by-layer": "runs:layers_plot",
    },
    "PowerReport": {"power": "chances:power_plot"},
    "ShrinkForecast": PLANNED,
    "ShrinkReport": COMPARED,
}
"""The functions stand in the modules of this folder; one that has nothing to show returns None."""


def plots_of(report: Report) -> dict[str, Plot]:
    """Return every plot that there is of a report, the most telling first; none for a report that only has words."""
    plots = {kind: _maker(where)(report) for kind, where in KINDS.get(type(report).__name__, {}).items()}
    return {kind: plot for kind, plot in plots.items() if plot is not None}


def plot_of(report: Report, kind: str | None = None) -> Plot:
    """Return one plot of a report: of a kind, or the most telling one.

    Raises UsageError (`no-plot`) where there is no such plot of it.
    """
    name, kinds = type(report).__name__, KINDS.get(type(report).__name__, {})
    if kind is None:
        plot = next(iter(plots_of(report).values()), None)
    else:
        plot = _maker(kinds[kind])(report) if kind in kinds else None
    if plot is None:
        there = ", ".join(plots_of(report)) or "none"
        hint = did_you_mean(kind or "", kinds) if kind is not None and kind not in kinds else ""
        raise UsageError(
            f"no plot of the kind {kind!r} of this {name}" if kind else f"no plot of this {name}",
            code="no-plot",
            hint=hint or (f"plots of it: {there}" if kinds else "what it says are words: print(report)"),
        )
    return plot


def _maker(where: str) -> Callable[[Report], Plot | None]:
    maker: Callable[[Report], Plot | None] = resolve_name(f"gradience.report.plots.{where}")
    return maker
