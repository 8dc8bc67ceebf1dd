"""Plots over training steps: loss with evaluations, and use of rank. Several runs have one line each."""

from collections.abc import Sequence
from statistics import median

from gradience.reports.base.numbers import count, plural, sig, trimmed
from gradience.reports.monitor import Curve, MonitorReport, RunReport
from gradience.reports.plots.plot import Axis, Lines, Plot

STEP = Axis("step", form="count")
WIDE = 50
"""The axis is logarithmic if a loss reaches this many times the median of all: otherwise the rest would be a
flat line at 0."""


def loss_plot(report: MonitorReport) -> Plot | None:
    """Return the loss of each run; of a single run also its evaluations."""
    curves = [(run, run.loss) for run in report.runs if run.loss.points]
    if not curves:
        return None
    if len(curves) == 1:
        ((run, curve),) = curves
        series = [_line("training loss", curve)]
        for split, evaluated in run.evaluations.items():
            if evaluated.loss.points:
                series.append(_line(f"{split} loss", evaluated.loss, marked=True))
        ends = f"{sig(curve.first)} to {sig(curve.last)} over {count(run.last_step or 0)} steps"
        sentence = f"The training loss goes from {ends}."
    else:
        series = [
            _line(name, curve)
            for name, (_, curve) in zip(_names([run for run, _ in curves]), curves, strict=True)
        ]
        better = sum(
            curve.last < curve.first
            for _, curve in curves
            if curve.first is not None and curve.last is not None
        )
        runs = f"{count(better)} of {plural(len(curves), 'run')}"
        sentence = f"{runs} end with a lower training loss than at the start."
    values = [point.mean for _, curve in curves for point in curve.points]
    axis = Axis("loss", scale="log" if max(values) > WIDE * median(values) > 0 else "linear")
    return Plot("loss", "Training loss", STEP, axis, series, sentence)


def _line(name: str, curve: Curve, *, marked: bool = False) -> Lines:
    points = curve.points
    steps, means = [point.step for point in points], [point.mean for point in points]
    return Lines(name, steps, means, marked=marked)


def rank_plot(report: MonitorReport) -> Plot | None:
    """Return the use of rank over the steps of a run that measured it; of several runs, k@90 of the median module."""
    measured = [(run, use) for run in report.runs if (use := run.rank_use) and use.points]
    if not measured:
        return None
    if len(measured) == 1:
        ((_, use),) = measured
        steps, last = [point.step for point in use.points], use.points[-1]
        series = [
            Lines(name, steps, [getattr(point, key) for point in use.points], marked=True)
            for name, key in (
                ("k@90, median module", "energy_rank_90_p50"),
                ("k@90, 90th percentile", "energy_rank_90_p90"),
            )
        ]
        modules = f"{plural(use.modules, 'module')} with rank {use.max_rank or 'unknown'}"
        reached = f"median k@90 {trimmed(last.energy_rank_90_p50)}"
        sentence = f"At step {count(last.step)}: {reached}, over {modules}."
    else:
        series = [
            Lines(
                name,
                [point.step for point in use.points],
                [point.energy_rank_90_p50 for point in use.points],
            )
            for name, (_, use) in zip(_names([run for run, _ in measured]), measured, strict=True)
        ]
        ends = [rank for _, use in measured if (rank := use.points[-1].energy_rank_90_p50) is not None]
        spread = f": {trimmed(min(ends))} to {trimmed(max(ends))} at the last step of each" if ends else ""
        sentence = f"k@90 of the median module in {plural(len(measured), 'run')}{spread}."
    axis = Axis("directions" if len(measured) == 1 else "k@90, median module", low=0.0)
    return Plot("rank", "Directions needed during training", STEP, axis, series, sentence)


def _names(runs: Sequence[RunReport]) -> list[str]:
    """Return the files of several runs, numbered if a name is repeated."""
    files = [run.file for run in runs]
    return [
        file if files.count(file) == 1 else f"{file} ({place})" for place, file in enumerate(files, start=1)
    ]
