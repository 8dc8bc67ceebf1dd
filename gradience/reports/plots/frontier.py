"""The frontier of strengths and ranks: the task against a guard, on dev rows."""

from __future__ import annotations

from gradience.reports.evaluation import BASE, REFERENCE
from gradience.reports.evaluation_sets import PlannedSet
from gradience.reports.plots.plot import Axis, Lines, Plot, Points
from gradience.reports.strength import StrengthReport, value_of


def frontier_plot(report: StrengthReport) -> Plot | None:
    """Return the task against the first guard: a line for each rank, a mark for each strength."""
    sets = report.dev.plan.sets
    task, guard = sets[0], next(planned for planned in sets if planned.guard)
    values = {
        planned.name: {name: value_of(row) for name, row in report.dev.rows_on(planned.name).items()}
        for planned in (task, guard)
    }
    reference, base = (
        next((row.name for row in report.dev.adapters if row.role == role), "") for role in (REFERENCE, BASE)
    )
    series: list[Lines | Points] = []
    for rank in sorted({point.rank for point in report.points}, reverse=True):
        names = [(point.name, point.strength) for point in report.points if point.rank == rank]
        if rank == report.rank:
            names.append((reference, 1.0))
        marks = []
        for name, strength in sorted(names, key=lambda pair: -pair[1]):
            x, y = values[guard.name].get(name), values[task.name].get(name)
            if x is not None and y is not None:
                marks.append((x, y, f"{name}\nstrength {strength:g}"))
        if marks:
            xs, ys, hover = zip(*marks, strict=True)
            series.append(Lines(f"rank {rank}", xs, ys, marked=True, hover=hover))
    for name, label in ((report.chosen or "", "chosen"), (base, "base model")):
        x, y = (values[planned.name].get(name) for planned in (guard, task))
        if x is not None and y is not None:
            series.append(Points(label, [x], [y], [label], tone="good" if name == report.chosen else "dim"))
    if not series:
        return None
    result = f"{report.chosen} is chosen" if report.chosen else "no point is chosen"
    return Plot(
        "frontier",
        f"{task.name} against {guard.name}",
        _axis(guard),
        _axis(task),
        series,
        f"{len(report.points)} strengths and ranks on the dev rows; {result}.",
    )


def _axis(planned: PlannedSet) -> Axis:
    if planned.compares == "nll":
        return Axis(f"NLL of {planned.name}", "nats per token")
    return Axis(f"accuracy of {planned.name}", form="share")
