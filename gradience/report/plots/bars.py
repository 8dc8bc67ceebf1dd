"""Bars of the largest values, one below the other: modules by their error, importance or distance."""

from __future__ import annotations

from collections.abc import Iterable

from gradience.report.comparison import label_of
from gradience.report.plots.plot import Axis, BarsOf, Form, Plot
from gradience.reports.audit import AuditReport
from gradience.reports.base.numbers import count, percent, plural, sig
from gradience.reports.calibration import CalibrationReport
from gradience.reports.comparison import ComparisonReport
from gradience.reports.compression import CompressionPlan, CompressionReport

MOST = 24
"""Bars in one plot."""


def error_plot(report: CompressionReport | CompressionPlan) -> Plot | None:
    """Return the relative error of each module's update, the largest first."""
    if isinstance(report, CompressionReport):
        rows = [(row.name, row.measured_error) for row in report.modules]
    else:
        rows = [(row.name, row.predicted_error) for row in report.modules]
    return largest_plot("error", "Relative error of the update", "relative error", rows, form="share")


def importance_plot(report: AuditReport | CalibrationReport) -> Plot | None:
    """Return the predicted KL of leaving out each module's update, the largest first."""
    effects = report.effects if isinstance(report, AuditReport) else report
    rows = [(row.name, row.importance) for row in effects.modules] if effects is not None else []
    return largest_plot(
        "importance", "What leaving out each module would cost", "predicted KL", rows, "nats per token"
    )


def difference_plot(report: ComparisonReport) -> Plot | None:
    """Return how far apart the two updates of each module are, the furthest first."""
    rows = [(label_of(row), row.relative_difference) for row in report.modules]
    return largest_plot("difference", "‖A − B‖ over ‖A‖", "relative difference", rows, form="share")


def largest_plot(
    name: str,
    title: str,
    what: str,
    rows: Iterable[tuple[str, float | None]],
    unit: str = "",
    form: Form = "number",
    noun: str = "module",
) -> Plot | None:
    """Return bars of the largest values of what is called `noun`; nothing where none is known."""
    known = sorted(((label, value) for label, value in rows if value is not None), key=lambda row: -row[1])
    if not known:
        return None
    shown = known[:MOST]
    figure = percent if form == "share" else sig
    some = f"the largest {count(len(shown))} of " if len(shown) < len(known) else ""
    places = list(range(len(shown)))
    return Plot(
        name,
        title,
        Axis(what, unit, low=0.0, form=form),
        Axis(noun, scale="categories", categories=[label for label, _ in shown]),
        [BarsOf(what, places, [value for _, value in shown], lying=True)],
        f"{what[0].upper()}{what[1:]}: {some}{plural(len(known), noun)}, from {figure(known[-1][1])} to"
        f" {figure(known[0][1])}.",
    )
