"""Plots over training steps: loss or reward with events, use of rank, stable rank by layer, KL of a distillation.

With more than `FEW` runs, a plot has one line per run, dashed for runs with errors, and no events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from gradience.reports.audit_series import short_names
from gradience.reports.base.numbers import count, plural, sig, trimmed
from gradience.reports.distill import DistillReport
from gradience.reports.monitor import Curve, MonitorReport, RunReport
from gradience.reports.plots.plot import Axis, Lines, Plot, Reference
from gradience.reports.plots.shared import LAYER, STEP, shaded, shades_said

FEW = 3
"""Maximum number of runs in a plot with all their logged values."""
WIDE = 50
"""The axis is logarithmic if a loss reaches this many times the median of all: otherwise the rest would be a
flat line at 0."""
CLOSE = 0.05
"""Share of the steps that an event's label takes on a phone."""


def distill_plot(report: DistillReport) -> Plot | None:
    """Return KL from the reference over the steps of a distillation, on the rows that decide when to stop."""
    steps, divergences = (
        [check.step for check in report.checks],
        [check.kl_per_token for check in report.checks],
    )
    return Plot(
        "kl",
        "KL from the reference during distillation",
        STEP,
        Axis("KL", "nats per scored token", low=0.0),
        [Lines("stopping rows", steps, divergences, marked=True)],
        f"KL from the reference on the held-out rows: {sig(report.before.kl_per_token)} nats per scored token before,"
        f" {sig(report.after.kl_per_token)} after.",
        [Reference(report.best_step, "kept", on="x", tone="good")],
    )


@dataclass(frozen=True, slots=True)
class PlottedRun:
    """A run and its name among the runs of the report; the name is empty for a single run."""

    name: str
    report: RunReport

    @property
    def prefix(self) -> str:
        """Return the prefix of the names of its series."""
        return f"{self.name}: " if self.name else ""

    @property
    def severity(self) -> str:
        """Return the severity of the worst alert."""
        severities = {alert.severity for alert in self.report.alerts}
        return "error" if "error" in severities else "warning" if "warning" in severities else ""

    def one_of_many(self, line: Lines) -> Lines:
        """Return the line without its band, dashed for a run with errors."""
        return replace(line, name=self.name, low=(), high=(), dashed=self.severity == "error")


def _runs(report: MonitorReport) -> list[PlottedRun]:
    if len(report.runs) == 1:
        return [PlottedRun("", report.runs[0])]
    files = [run.file for run in report.runs]
    names = short_names(files) if len(set(files)) == len(files) else files
    return [
        PlottedRun(name if names.count(name) == 1 else f"{name} ({place})", run)
        for place, (name, run) in enumerate(zip(names, report.runs, strict=True), start=1)
    ]


def _rewards(run: PlottedRun) -> Curve | None:
    """Return the rewards of a reinforcement learning run, which is judged by them."""
    rewards = run.report.rewards
    return rewards.reward if rewards is not None and rewards.reward.points else None


def loss_plot(report: MonitorReport) -> Plot | None:
    """Return the loss of each run that is not judged by rewards, with evaluations and events."""
    return _progress_plot("loss", [(run, run.report.loss) for run in _runs(report) if not _rewards(run)])


def reward_plot(report: MonitorReport) -> Plot | None:
    """Return the reward of each reinforcement learning run, with events."""
    return _progress_plot("reward", [(run, curve) for run in _runs(report) if (curve := _rewards(run))])


def _progress_plot(metric: str, logged: Sequence[tuple[PlottedRun, Curve]]) -> Plot | None:
    curves = [(run, curve) for run, curve in logged if curve.points]
    if not curves:
        return None
    few = len(curves) <= FEW
    series: list[Lines] = []
    clauses: list[tuple[PlottedRun, str]] = []
    for run, curve in curves:
        line = _line(f"{run.prefix}training {metric}", curve)
        series.append(line if few else run.one_of_many(line))
        ends = f"{sig(curve.first)} to {sig(curve.last)} over {count(run.report.last_step or 0)} steps"
        clauses.append((run, f"the training {metric} goes from {ends}"))
        for split, evaluated in run.report.evaluations.items() if few and metric == "loss" else ():
            if evaluated.loss.points:
                series.append(replace(_line(f"{run.prefix}{split} loss", evaluated.loss), marked=True))
    values = [point.mean for _, curve in curves for point in curve.points]
    log = metric == "loss" and max(values) > WIDE * median(values) > 0
    axis = Axis(metric, scale="log" if log else "linear")
    sentence = _sentence(clauses) if few else _sentence_of_many(metric, curves)
    return Plot(
        metric, f"Training {metric}", STEP, axis, series, sentence, _events([run for run, _ in curves])
    )


def _line(name: str, curve: Curve) -> Lines:
    """Return the means of a curve, with a band from the lowest to the highest of neighboring steps."""
    points = curve.points
    line = Lines(name, [point.step for point in points], [point.mean for point in points])
    if all(point.low == point.high for point in points):
        return line
    return replace(line, low=[point.low for point in points], high=[point.high for point in points])


def rank_plot(report: MonitorReport) -> Plot | None:
    """Return the use of rank over the steps of each run that measured it."""
    measured = [(run, use) for run in _runs(report) if (use := run.report.rank_use) and use.points]
    if not measured:
        return None
    few = len(measured) <= FEW
    series: list[Lines] = []
    clauses: list[tuple[PlottedRun, str]] = []
    for run, use in measured:
        steps, last = [point.step for point in use.points], use.points[-1]
        medians = [point.energy_rank_90_p50 for point in use.points]
        if few:
            most = [point.energy_rank_90_p90 for point in use.points]
            ranks = [point.stable_rank_median for point in use.points]
            series += [
                Lines(f"{run.prefix}k@90, median module", steps, medians, marked=True),
                Lines(f"{run.prefix}k@90, 90th percentile", steps, most, marked=True),
                Lines(f"{run.prefix}stable rank, median", steps, ranks, marked=True),
            ]
        else:
            series.append(run.one_of_many(Lines("", steps, medians)))
        modules = f"{plural(use.modules, 'module')} with rank {use.max_rank or 'unknown'}"
        reached = f"k@90 {trimmed(last.energy_rank_90_p50)} at step {count(last.step)}"
        clauses.append((run, f"the median module has {reached}, of {modules}"))
    sentence = _sentence(clauses)
    if not few:
        ends = [rank for _, use in measured if (rank := use.points[-1].energy_rank_90_p50) is not None]
        spread = f": {trimmed(min(ends))} to {trimmed(max(ends))} at the last step of each" if ends else ""
        sentence = f"k@90 of the median module in {plural(len(measured), 'run')}{spread}."
    axis = Axis("directions" if few else "k@90, median module", low=0.0)
    return Plot(
        "rank",
        "Directions needed during training",
        STEP,
        axis,
        series,
        sentence,
        _events([run for run, _ in measured]),
    )


def layers_plot(report: MonitorReport) -> Plot | None:
    """Return the stable rank of each transformer layer over the steps of each run that measured it, for a few runs."""
    measured = [(run, use) for run in _runs(report) if (use := run.report.rank_use) and use.layers]
    if not measured or len(measured) > FEW:
        return None
    series: list[Lines] = []
    clauses: list[tuple[PlottedRun, str]] = []
    for run, use in measured:
        steps = [point.step for point in use.points]
        layers = {row.layer: row.stable_rank_median for row in use.layers}
        series += shaded(layers, steps, run.prefix, dashed=bool(series))
        words = f"{plural(len(layers), 'layer')} over {plural(len(steps), 'measurement')}"
        clauses.append((run, f"median stable rank of {words}"))
    sentence = f"{_sentence(clauses)}{shades_said(series)}"
    events = _events([run for run, _ in measured])
    return Plot("stable-rank-by-layer", "Stable rank of each layer", STEP, LAYER, series, sentence, events)


# ---------------------------------------------------------------- sentences and events


def _sentence(clauses: Sequence[tuple[PlottedRun, str]]) -> str:
    """Return one sentence; for several runs with a clause for each, beginning with its name."""
    text = "; ".join(f"{run.prefix}{clause}" for run, clause in clauses)
    return f"{text}." if clauses[0][0].name else f"{text[0].upper()}{text[1:]}."


def _sentence_of_many(metric: str, curves: Sequence[tuple[PlottedRun, Curve]]) -> str:
    """Return the number of runs that improved, the best run without errors, and the meaning of the line styles."""
    sign, way, most = (1, "higher", "highest") if metric == "reward" else (-1, "lower", "lowest")
    better = 0
    sound: list[tuple[float, float, str]] = []
    for run, curve in curves:
        if curve.first is None or curve.last is None:
            continue
        better += sign * (curve.last - curve.first) > 0
        if run.severity != "error":
            sound.append((sign * curve.last, curve.last, run.name))
    text = f"{count(better)} of {plural(len(curves), 'run')} end with a {way} training {metric} than at the start"
    if sound:
        _, last, name = max(sound, key=lambda end: end[0])
        text += f"; the {most} final {metric} of a run without errors is {sig(last)} ({name})"
    errors = sum(run.severity == "error" for run, _ in curves)
    return f"{text}. Dashed: {plural(errors, 'run')} with errors." if errors else f"{text}."


def _events(runs: Sequence[PlottedRun]) -> list[Reference]:
    """Return the steps at which runs resumed, and the steps that their alerts name; empty for many runs."""
    if len(runs) > FEW:
        return []
    events: list[Reference] = []
    for run in runs:
        codes: dict[int, list[str]] = {}
        for alert in run.report.alerts:
            for evidence in alert.evidence[:1]:
                if evidence.step is not None:
                    codes.setdefault(evidence.step, []).append(alert.code)
        events += [Reference(step, f"{run.prefix}resumed", on="x") for step in run.report.resumed_from]
        for step, alerts in sorted(codes.items()):
            events.append(Reference(step, f"{run.prefix}{', '.join(alerts)}", on="x", tone="warn"))
    return together(events, max(run.report.last_step or 0 for run in runs))


def together(events: Sequence[Reference], steps: int) -> list[Reference]:
    """Return the events in order; of events with overlapping labels, the first names all.

    steps: number of steps of the longest run.
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
