"""The plots of several inputs together, as `gradience plot` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gradience.errors import UsageError
from gradience.files.shared_names import paths_text
from gradience.reports.audit import AuditReport
from gradience.reports.base.report import Report
from gradience.reports.plots.audits import evolution_plots
from gradience.reports.plots.kinds import plot_of, plots_of
from gradience.reports.plots.plot import Plot

EVOLUTION = "evolution"
"""All that is drawn over steps: of a run, or of several audits in their order."""


def plots_of_inputs(
    kind: str, inputs: Sequence[Path], reports: Sequence[Report], *, titles: bool
) -> tuple[list[Plot], list[UsageError]]:
    """Return one plot of each report, with its name if there are several, and why the others have none.

    Of checkpoints, return what changed over them. Raises UsageError (`no-plot`) if no report has one.
    """
    audits = [report for report in reports if isinstance(report, AuditReport)]
    if kind == EVOLUTION and audits:
        if len(audits) < len(reports) or len(audits) < 2:
            raise UsageError(
                "evolution needs two or more audits, or a run.jsonl",
                code="no-plot",
                hint="name the checkpoints of one run in order, or its run.jsonl",
            )
        return evolution_plots(audits), []
    if len(reports) == 1:
        return _plots_of_one(kind, reports[0]), []
    drawn: list[Plot] = []
    without: list[UsageError] = []
    for path, name, report in zip(inputs, _names(inputs), reports, strict=True):
        try:
            plots = _plots_of_one(kind, report)
        except UsageError as error:
            without.append(UsageError(f"{path}: {error}", code=error.code, hint=error.hint))
            continue
        drawn += [replace(plot, title=f"{name}: {plot.title}" if titles else name) for plot in plots]
    if not drawn:
        raise without[0]
    return drawn, without


def _plots_of_one(kind: str, report: Report) -> list[Plot]:
    """Return the plots of a kind; for `evolution` all plots of a run. Raises UsageError (`no-plot`) if none exists."""
    if kind == EVOLUTION:
        return list(plots_of(report).values()) or [plot_of(report)]
    return [plot_of(report, kind)]


def _names(inputs: Sequence[Path]) -> list[str]:
    """Return the names of the inputs in titles: the last parts of their paths if these differ."""
    names = [path.name for path in inputs]
    if len(set(names)) == len(names):
        return names
    parted = paths_text([path.absolute() for path in inputs])
    return parted if len(set(parted)) == len(parted) else paths_text(inputs)
