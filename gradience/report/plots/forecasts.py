"""What a plan needs: the memory of its parts, the time on each machine, and the margins that it can show."""

from __future__ import annotations

from collections.abc import Sequence

from gradience.artifacts.evaluation import EvaluationForecast
from gradience.artifacts.forecast import BenchForecast, TimeEstimate
from gradience.artifacts.shrink import ShrinkForecast
from gradience.report.forecast import machine_of, rough_duration
from gradience.report.numbers import in_points, percent, size
from gradience.report.plots.chances import chances_plot
from gradience.report.plots.plot import Axis, BarsOf, Lines, Plot, Reference, Series

Forecast = BenchForecast | EvaluationForecast | ShrinkForecast
HOUR, MINUTE = 3600.0, 60.0


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
        }
    else:
        if report.weights_bytes is None or report.batch_bytes is None:
            return None
        parts = {"base": report.weights_bytes, "adapters": report.adapter_bytes, "batch": report.batch_bytes}
    names = list(parts)
    return Plot(
        "memory",
        "Memory",
        Axis("size", low=0.0, form="bytes"),
        Axis("", scale="categories", categories=names),
        [BarsOf("bytes", list(range(len(names))), [parts[name] for name in names], lying=True)],
        f"About {size(sum(parts.values()))}, of which the base is {size(parts['base'])}.",
    )


def time_plot(report: Forecast) -> Plot | None:
    """Return the time on each machine: of Bench a seed's trainings and all else, otherwise that of all adapters."""
    times = (report.cost.times if report.cost else ()) if isinstance(report, BenchForecast) else report.times
    if not times:
        return None
    unit, seconds = _unit(times)
    places = list(range(len(times)))
    if isinstance(report, BenchForecast):
        trainings = [min(time.seed, report.trainings * time.training) for time in times]
        rest = [time.seed - training for time, training in zip(times, trainings, strict=True)]
        series: list[Series] = [
            BarsOf(name, places, [each / seconds for each in values], lying=True, stacked=True)
            for name, values in (("trainings", trainings), ("evaluations and loading", rest))
        ]
        of = "A seed takes"
    else:
        series = [BarsOf("all adapters", places, [time.seed / seconds for time in times], lying=True)]
        of = "All of it takes" if isinstance(report, EvaluationForecast) else "A search takes at most"
    spoken = [f"{rough_duration(time.seed)} on {machine_of(time)}" for time in times]
    return Plot(
        "time",
        "Time",
        Axis("time", unit, low=0.0),
        Axis("", scale="categories", categories=[machine_of(time) for time in times]),
        series,
        f"{of} {', '.join(spoken)}.",
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


def _unit(times: Sequence[TimeEstimate]) -> tuple[str, float]:
    """The largest unit of which the longest takes two or more, and its seconds."""
    longest = max(time.seed for time in times)
    units = (("hours", HOUR), ("minutes", MINUTE), ("seconds", 1.0))
    return next((unit for unit in units if longest >= 2 * unit[1]), units[-1])
