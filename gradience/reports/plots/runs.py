"""Plots over training steps: loss with evaluations, and use of rank. Several runs have one line each."""

from statistics import median

from gradience.reports.base.numbers import plural, sig, trimmed
from gradience.reports.monitor import Curve, MonitorReport, RunReport
from gradience.reports.plots.plot import Axis, Lines, Plot
from gradience.words import listed

STEP = Axis("step", form="count")
WIDE = 50
"""The axis is logarithmic if a loss reaches this many times the median of all: otherwise the rest would be a
flat line at 0."""


def loss_plot(report: MonitorReport) -> Plot | None:
    """Return the loss of each run; of a single run also its evaluations."""
    runs = [(name, run) for name, run in _named(report) if run.loss.points]
    if not runs:
        return None
    series = [_line(name if len(runs) > 1 else "training loss", run.loss) for name, run in runs]
    if len(runs) == 1:
        evaluations = runs[0][1].evaluations.items()
        series += [
            _line(f"{name} loss", split.loss, marked=True) for name, split in evaluations if split.loss.points
        ]
    ends = [f"{name} {sig(run.loss.first)} to {sig(run.loss.last)}" for name, run in runs]
    values = [mean for _, run in runs for mean in run.loss.means]
    axis = Axis("loss", scale="log" if max(values) > WIDE * median(values) > 0 else "linear")
    return Plot("loss", "Training loss", STEP, axis, series, f"Training loss, first to last: {listed(ends)}.")


def _line(name: str, curve: Curve, *, marked: bool = False) -> Lines:
    return Lines(name, [point.step for point in curve.points], curve.means, marked)


def rank_plot(report: MonitorReport) -> Plot | None:
    """Return k@90 of the median module over the steps of each run that measured it; of a single run also the 90th
    percentile."""
    measured = [(name, use) for name, run in _named(report) if (use := run.rank_use) and use.points]
    if not measured:
        return None
    lines = [(name, "energy_rank_90_p50", use.points) for name, use in measured]
    if len(measured) == 1:
        ((_, _, points),) = lines
        lines = [
            ("median module", "energy_rank_90_p50", points),
            ("90th percentile", "energy_rank_90_p90", points),
        ]
    series = [
        Lines(name, [point.step for point in points], [getattr(point, key) for point in points], marked=True)
        for name, key, points in lines
    ]
    ends = [
        f"{name} {trimmed(use.points[-1].energy_rank_90_p50)} of rank {use.max_rank or 'unknown'}"
        for name, use in measured
    ]
    sentence = (
        f"k@90 of the median module in {plural(len(measured), 'run')}, at the last step: {listed(ends)}."
    )
    return Plot("rank", "Directions needed during training", STEP, Axis("k@90", low=0.0), series, sentence)


def _named(report: MonitorReport) -> list[tuple[str, RunReport]]:
    """Return the runs with their files, numbered if a name is repeated."""
    files = [run.file for run in report.runs]
    return [
        (file if files.count(file) == 1 else f"{file} ({place})", run)
        for place, (file, run) in enumerate(zip(files, report.runs, strict=True), start=1)
    ]
