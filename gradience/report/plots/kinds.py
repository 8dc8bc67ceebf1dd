"""Which plots a report has, and in which section of its document each stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name

from gradience.errors import UsageError, did_you_mean
from gradience.report.plots.plot import Plot
from gradience.reports.base.report import Report


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of plot of a report."""

    where: str
    """The module of this folder, and its function; one that has nothing to show returns None."""
    sections: tuple[str, ...] = ()
    """How the title of its section begins; without one it stands before the first section."""

    def make(self, report: Report) -> Plot | None:
        """Return the plot of a report."""
        maker: Callable[[Report], Plot | None] = resolve_name(f"gradience.report.plots.{self.where}")
        return maker(report)


def _compared(forest: str, pareto: str) -> dict[str, Kind]:
    """Of a report that compares adapters: the sections of the intervals, and of the sizes."""
    return {
        "forest": Kind("compared:forest_plot", (forest,)),
        "pareto": Kind("compared:pareto_plot", (pareto,)),
        "pairs": Kind("compared:pairs_plot", (forest,)),
    }


SAVED, LOST = ("What is saved", "What would be saved"), ("What is lost", "What would be lost")
COMPRESSED = {
    "error": Kind("sizes:error_plot", LOST),
    "ranks": Kind("sizes:ranks_plot", SAVED),
    "parameters": Kind("sizes:parameters_plot", SAVED),
    "bytes": Kind("sizes:bytes_plot", SAVED),
    "kept": Kind("sizes:kept_plot", ("Where?",)),
}
COMPRESSED_KL = {"kl": Kind("sizes:kl_plot", ("Predicted change of the output",))}
EFFECTS = ("What matters", "What ranks")
PLANNED = {
    "margins": Kind("sizes:margins_plot", ("What can these",)),
    "memory": Kind("sizes:memory_plot"),
}
KINDS: Mapping[str, Mapping[str, Kind]] = {
    "AuditReport": {
        "heatmap": Kind("audits:heatmap_plot", ("Where?",)),
        "energy": Kind("audits:energy_plot", ("Where?",)),
        "spectrum": Kind("audits:spectrum_plot", ("Where?",)),
        "use": Kind("audits:use_plot", ("How much of its rank",)),
        "stable-rank": Kind("audits:stable_rank_plot", ("Where?",)),
        "kl": Kind("sizes:kl_plot", EFFECTS),
        "importance": Kind("audits:importance_plot", EFFECTS),
    },
    "Bench": {
        **_compared("Variants", "Variants"),
        "ladder": Kind("compared:ladder_plot", ("Which is the smallest", "Ladder", "Variants")),
    },
    "BenchAggregate": {
        **_compared("Δ and how sure", "Variants"),
        "ladder": Kind("compared:ladder_plot", ("Which is the smallest", "Ladder", "Grades")),
        "operating": Kind("compared:operating_plot", ("Grades",)),
    },
    "BenchForecast": {
        "memory": Kind("sizes:memory_plot", ("Plan",)),
        "power": Kind("sizes:power_plot", ("What it can show",)),
    },
    "CalibrationReport": {"importance": Kind("audits:importance_plot", ("Which modules matter",))},
    "ComparisonReport": {"difference": Kind("sizes:difference_plot", ("Where?",))},
    "CompressionPlan": COMPRESSED_KL | COMPRESSED,
    "CompressionReport": COMPRESSED | COMPRESSED_KL,
    "EvaluationForecast": PLANNED,
    "EvaluationReport": _compared("Is each", "Is each"),
    "EvidenceReport": _compared("How large", "How large"),
    "FleetCompression": {
        "bytes": Kind("sizes:truncated_bytes_plot", ("Smaller",)),
        "error": Kind("sizes:truncated_error_plot", ("Smaller",)),
    },
    "FleetReport": {
        "steps": Kind("sizes:steps_plot", ("What would a lower",)),
        "slots": Kind("sizes:slots_plot", ("What would a lower",)),
    },
    "DistillReport": {"kl": Kind("runs:distill_plot", ("Which step",))},
    "MonitorReport": {
        "loss": Kind("runs:loss_plot", ("Loss",)),
        "reward": Kind("runs:reward_plot", ("Reward",)),
        "rank": Kind("runs:rank_plot", ("Use of rank",)),
        "stable-rank-by-layer": Kind("runs:layers_plot", ("Use of rank",)),
    },
    "PowerReport": {"power": Kind("sizes:power_plot")},
    "ShrinkForecast": PLANNED,
    "ShrinkReport": _compared("Which is the smallest", "Which is the smallest"),
}
"""By the name of a report's class: kind -> the plot, the most telling first."""


def plots_of(report: Report) -> dict[str, Plot]:
    """Return every plot that there is of a report, the most telling first; none for a report that only has words."""
    plots = {kind: entry.make(report) for kind, entry in KINDS.get(type(report).__name__, {}).items()}
    return {kind: plot for kind, plot in plots.items() if plot is not None}


def plot_of(report: Report, kind: str | None = None) -> Plot:
    """Return one plot of a report: of a kind, or the most telling one.

    Raises UsageError (`no-plot`) where there is no such plot of it.
    """
    name, kinds = type(report).__name__, KINDS.get(type(report).__name__, {})
    if kind is None:
        plot = next(iter(plots_of(report).values()), None)
    else:
        plot = kinds[kind].make(report) if kind in kinds else None
    if plot is None:
        hint = "" if kind is None or kind in kinds else did_you_mean(kind, kinds)
        there = f"plots of it: {', '.join(plots_of(report)) or 'none'}"
        raise UsageError(
            f"no plot of the kind {kind!r} of this {name}" if kind else f"no plot of this {name}",
            code="no-plot",
            hint=hint or (there if kinds else "what it says are words: print(report)"),
        )
    return plot
