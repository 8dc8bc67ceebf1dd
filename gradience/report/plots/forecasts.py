"""A plan: the memory of its parts, and the margins that it can show."""

from __future__ import annotations

from gradience.report.plots.chances import chances_plot
from gradience.report.plots.plot import Axis, BarsOf, Lines, Plot, Reference
from gradience.reports.base.numbers import in_points, percent, size
from gradience.reports.evaluation import EvaluationForecast
from gradience.reports.forecast import BenchForecast
from gradience.reports.shrink import ShrinkForecast

Forecast = BenchForecast | EvaluationForecast | ShrinkForecast


def memory_plot(report: Forecast) -> Plot | None:
    """Return the bytes of each part that is in memory together; nothing where the shape of the model is not known."""
    if isinstance(report, BenchForecast):
        cost = report.cost
        if cost is None:
            return None
        parts = {
            "base": cost.weights_bytes,
            "trained, with moments": cost.trained_bytes,
            "activations": cost.activation_bytes,
            "Python and libraries": cost.process_bytes,
        }
    else:
        if report.weights_bytes is None or report.batch_bytes is None:
            return None
        parts = {
            "base": report.weights_bytes,
            "adapters": report.adapter_bytes,
            "batch": report.batch_bytes,
            "Python and libraries": report.process_bytes or 0,
        }
    parts = {name: part for name, part in parts.items() if part}
    names = list(parts)
    return Plot(
        "memory",
        "Memory",
        Axis("size", low=0.0, form="bytes"),
        Axis("", scale="categories", categories=names),
        [BarsOf("bytes", list(range(len(names))), [parts[name] for name in names], lying=True)],
        f"About {size(sum(parts.values()))}, of which the base is {size(parts['base'])}.",
    )


def margins_plot(report: EvaluationForecast | ShrinkForecast) -> Plot | None:
    """Return the smallest margin that the examples can show, by how often the two adapters differ; nothing where
    likelihoods are compared."""
    if not report.margins:
        return None
    margin = report.plan.margin if isinstance(report, ShrinkForecast) else report.margin
    rows = sorted(report.margins, key=lambda row: row.discordance)
    last = rows[-1]
    return Plot(
        "margins",
        "Smallest margin that can be shown",
        Axis("examples on which exactly one is correct", low=0.0, form="share"),
        Axis("margin", "points", low=0.0),
        [
            Lines(
                "with a chance of 80 %",
                [r.discordance for r in rows],
                [100 * r.margin for r in rows],
                marked=True,
            )
        ],
        f"If exactly one is correct on {percent(last.discordance)} of the examples, a loss of {in_points(last.margin)}"
        " points can be excluded.",
        [Reference(100 * float(margin), "margin asked for", tone="bad")],
    )


def scenarios_plot(report: BenchForecast) -> Plot | None:
    """Return what the planned examples and seeds show of plausible variants."""
    return chances_plot(report.scenarios)
