"""Plots over training steps: loss with evaluations and events, and use of rank.

Several runs have one line each, dashed for runs with errors, and no events.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from gradience.reports.base.numbers import count, plural, sig, trimmed
from gradience.reports.monitor import Curve, MonitorReport, RunReport
from gradience.reports.plots.plot import Axis, Lines, Plot, Reference

STEP = Axis("step", form="count")
WIDE = 50
"""The axis is logarithmic if a loss reaches this many times the median of all: otherwise the rest would be a
flat line at 0."""
CLOSE = 0.05
"""Share of the steps that an event's label takes on a phone."""


def loss_plot(report: MonitorReport) -> Plot | None:
    """Return the loss of each run; of a single run also evaluations and events."""
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
            _line(name, curve, dashed=_has_errors(run))
            for name, (run, curve) in zip(_names([run for run, _ in curves]), curves, strict=True)
        ]
        better = sum(
            curve.last < curve.first
            for _, curve in curves
            if curve.first is not None and curve.last is not None
        )
        errors = sum(_has_errors(run) for run, _ in curves)
        dashed = f" Dashed: {plural(errors, 'run')} with errors." if errors else ""
        runs = f"{count(better)} of {plural(len(curves), 'run')}"
        sentence = f"{runs} end with a lower training loss than at the start.{dashed}"
    values = [point.mean for _, curve in curves for point in curve.points]
    axis = Axis("loss", scale="log" if max(values) > WIDE * median(values) > 0 else "linear")
    return Plot("loss", "Training loss", STEP, axis, series, sentence, _events([run for run, _ in curves]))


def _line(name: str, curve: Curve, *, marked: bool = False, dashed: bool = False) -> Lines:
    points = curve.points
    steps, means = [point.step for point in points], [point.mean for point in points]
    return Lines(name, steps, means, marked=marked, dashed=dashed)


def rank_plot(report: MonitorReport) -> Plot | None:
    """Return the use of rank over the steps of a run that measured it; of several runs, k@90 of the median module."""
    measured = [(run, use) for run in report.runs if (use := run.rank_use) and use.points]
    if not measured:
        return None
    runs = [run for run, _ in measured]
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
        reached = f"k@90 {trimmed(last.energy_rank_90_p50)} at step {count(last.step)}"
        sentence = f"The median module has {reached}, of {modules}."
    else:
        series = [
            Lines(
                name,
                [point.step for point in use.points],
                [point.energy_rank_90_p50 for point in use.points],
                dashed=_has_errors(run),
            )
            for name, (run, use) in zip(_names(runs), measured, strict=True)
        ]
        ends = [rank for _, use in measured if (rank := use.points[-1].energy_rank_90_p50) is not None]
        spread = f": {trimmed(min(ends))} to {trimmed(max(ends))} at the last step of each" if ends else ""
        sentence = f"k@90 of the median module in {plural(len(measured), 'run')}{spread}."
    axis = Axis("directions" if len(measured) == 1 else "k@90, median module", low=0.0)
    return Plot("rank", "Directions needed during training", STEP, axis, series, sentence, _events(runs))


def _names(runs: Sequence[RunReport]) -> list[str]:
    """Return the files of several runs, numbered if a name is repeated."""
    files = [run.file for run in runs]
    return [
        file if files.count(file) == 1 else f"{file} ({place})" for place, file in enumerate(files, start=1)
    ]


def _has_errors(run: RunReport) -> bool:
    return any(alert.severity == "error" for alert in run.alerts)


def _events(runs: Sequence[RunReport]) -> list[Reference]:
    """Return the steps at which a run resumed, and the steps that its alerts name; empty for several runs."""
    if len(runs) > 1:
        return []
    (run,) = runs
    codes: dict[int, list[str]] = {}
    for alert in run.alerts:
        for evidence in alert.evidence[:1]:
            if evidence.step is not None:
                codes.setdefault(evidence.step, []).append(alert.code)
    events = [Reference(step, "resumed", on="x") for step in run.resumed_from]
    events += [Reference(step, ", ".join(alerts), on="x", tone="warn") for step, alerts in codes.items()]
    return together(events, run.last_step or 0)


def together(events: Sequence[Reference], steps: int) -> list[Reference]:
    """Return the events in order; of events with overlapping labels, the first names all.

    steps: number of steps of the run.
    """
    groups: list[list[Reference]] = []
    for event in sorted(events, key=lambda event: event.at):
        if groups and event.at - groups[-1][0].at < CLOSE * steps:
            groups[-1].append(event)
        else:
            groups.append([event])
    named: list[Reference] = []
    for first, *others in groups:
        labels = dict.fromkeys(event.label for event in (first, *others))
        named += [replace(first, label=", ".join(labels)), *(replace(event, label="") for event in others)]
    return named
