"""The plots of a report, each made by a function of this folder that the report's class names."""

from __future__ import annotations

from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from gradience.errors import UsageError, did_you_mean
from gradience.reports.plots.plot import Plot

if TYPE_CHECKING:
    from gradience.reports.base.report import Report


def _made(name: str, report: Report) -> Plot | None:
    maker: Callable[[Report], Plot | None] = resolve_name(f"gradience.reports.plots.{name}")
    return maker(report)


def plots_of(report: Report) -> dict[str, Plot]:
    """Return every plot of a report, the most informative first; empty for a report that has only text."""
    plots = {kind: _made(maker, report) for kind, maker in report.plots.items()}
    return {kind: plot for kind, plot in plots.items() if plot is not None}


def plot_of(report: Report, kind: str | None = None) -> Plot:
    """Return one plot of a report: of the given kind, or the most informative one.

    Raises UsageError (`no-plot`) if the report does not have this plot.
    """
    name, kinds = (
        report.schema_id.partition("/")[0].removeprefix("gradience.").replace("_", " "),
        report.plots,
    )
    if kind is None:
        plot = next(iter(plots_of(report).values()), None)
    else:
        plot = _made(kinds[kind], report) if kind in kinds else None
    if plot is None:
        hint = "" if kind is None or kind in kinds else did_you_mean(kind, kinds)
        there = f"available: {', '.join(plots_of(report)) or 'none'}"
        raise UsageError(
            f"this {name} has no plot {kind!r}" if kind else f"this {name} has no plot",
            code="no-plot",
            hint=hint or (there if kinds else "this report has only text: print(report)"),
        )
    return plot
