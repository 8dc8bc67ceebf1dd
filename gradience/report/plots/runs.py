"""What one or several runs logged over their steps: loss or reward with evaluations and events, use of rank, the stable
rank of each layer.

Of more than `FEW` runs a plot has one line each, and those with errors or warnings stand out: their events stand in the
plots of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from gradience.report.audit.trend import short_names
from gradience.report.plots.plot import Axis, Lines, Plot, Reference, Scale, Series, Tone
from gradience.report.plots.steps import LAYER, STEP, shaded, shades_said
from gradience.reports.base.numbers import count, plural, sig, trimmed
from gradience.reports.monitor import Curve, MonitorReport, RunReport

FEW = 3
"""Runs that a plot shows with all that they logged."""
WIDE = 50
"""Where a loss reaches so many times the median of all, the axis is logarithmic: the others would be one line at 0."""
CLOSE = 0.05
"""Of the steps: on a phone the label of an event is as wide."""
TONES: dict[str, Tone] = {"error": "bad", "warning": "warn", "": "dim"}


@dataclass(frozen=True, slots=True)
class _Run:
    """A run and what stands before its series: nothing for a single one, else its file and maybe its place."""

    name: str
    report: RunReport

    @property
    def severity(self) -> str:
        """The worst of its alerts."""
        severities = {alert.severity for alert in self.report.alerts}
        return next((one for one in ("error", "warning") if one in severities), "")


def loss_plot(report: MonitorReport) -> Plot | None:
    """Return the loss of each run that is not judged by rewards, with evaluations and events."""
    return _progress_plot("loss", [(run, run.report.loss) for run in _named(report) if not _rewarded(run)])


def reward_plot(report: MonitorReport) -> Plot | None:
    """Return the reward of each run of reinforcement learning, with events."""
    rewards = [(run, run.report.rewards) for run in _named(report) if _rewarded(run)]
    return _progress_plot("reward", [(run, one.reward) for run, one in rewards if one is not None])


def _rewarded(run: _Run) -> bool:
    return run.report.rewards is not None and bool(run.report.rewards.reward.points)


def _progress_plot(what: str, logged: Sequence[tuple[_Run, Curve]]) -> Plot | None:
    curves = [(run, curve) for run, curve in logged if curve.points]
    if not curves:
        return None
    runs = [run for run, _ in curves]
    few = len(runs) <= FEW
    series: list[Series] = []
    for run, curve in curves:
        line = _curve(f"{run.name}training {what}", curve)
        series.append(line if few else _one_of_many(run, line))
        if few and what == "loss":
            series += [
                _curve(f"{run.name}{split} loss", of.loss, marked=True)
                for split, of in run.report.evaluations.items()
                if of.loss.points
            ]
    spoken = [
        f"the training {what} goes from {sig(curve.first)} to {sig(curve.last)} over"
        f" {count(run.report.last_step or 0)} steps"
        for run, curve in curves
    ]
    return Plot(
        what,
        what.capitalize(),
        STEP,
        Axis(what, scale=_scale(what, [curve for _, curve in curves])),
        series,
        _sentence(runs, spoken) if few else _sentence_of_many(what, curves),
        _events(runs),
    )


def rank_plot(report: MonitorReport) -> Plot | None:
    """Return the use of rank over the steps of each run that measured it."""
    named = [(run, run.report.rank_use) for run in _named(report)]
    measured = [(run, use) for run, use in named if use is not None and use.points]
    if not measured:
        return None
    few = len(measured) <= FEW
    series: list[Series] = []
    for run, use in measured:
        steps = [point.step for point in use.points]
        curves = {"k@90, median module": [point.energy_rank_90_p50 for point in use.points]}
        if few:
            curves["k@90, 90th percentile"] = [point.energy_rank_90_p90 for point in use.points]
            curves["stable rank, median"] = [point.stable_rank_median for point in use.points]
        lines = [Lines(f"{run.name}{what}", steps, values, marked=True) for what, values in curves.items()]
        series += lines if few else [_one_of_many(run, replace(line, marked=False)) for line in lines]
    spoken = [
        f"the median module has k@90 {trimmed(use.points[-1].energy_rank_90_p50)} at step"
        f" {count(use.points[-1].step)}, of {plural(use.modules, 'module')} with rank {use.max_rank or 'unknown'}"
        for _, use in measured
    ]
    last = [value for _, use in measured if (value := use.points[-1].energy_rank_90_p50) is not None]
    of_many = f"k@90 of the median module in {plural(len(measured), 'run')}"
    of_many += f": {trimmed(min(last))} to {trimmed(max(last))} at the last step of each." if last else "."
    runs = [run for run, _ in measured]
    axis = Axis("directions", low=0.0) if few else Axis("k@90, median module", low=0.0)
    return Plot(
        "rank", "Use of rank", STEP, axis, series, _sentence(runs, spoken) if few else of_many, _events(runs)
    )


def layers_plot(report: MonitorReport) -> Plot | None:
    """Return the stable rank of each transformer layer over the steps of each run that measured it, of a few runs."""
    named = [(run, run.report.rank_use) for run in _named(report)]
    measured = [(run, use) for run, use in named if use is not None and use.layers]
    if not measured or len(measured) > FEW:
        return None
    series: list[Series] = []
    spoken: list[str] = []
    for place, (run, use) in enumerate(measured):
        steps = [point.step for point in use.points]
        layers = {row.layer: row.stable_rank_median for row in use.layers}
        series += shaded(layers, steps, run.name, dashed=place > 0)
        spoken.append(
            f"median stable rank of {plural(len(layers), 'layer')} over {plural(len(steps), 'measurement')}"
        )
    runs = [run for run, _ in measured]
    title = "Stable rank of each layer"
    sentence = f"{_sentence(runs, spoken)}{shades_said([one for one in series if isinstance(one, Lines)])}"
    return Plot("stable-rank-by-layer", title, STEP, LAYER, series, sentence, _events(runs))


# ---------------------------------------------------------------- runs, and lines of them


def _named(report: MonitorReport) -> list[_Run]:
    if len(report.runs) == 1:
        return [_Run("", report.runs[0])]
    files = [run.file for run in report.runs]
    names = short_names(files) if len(set(files)) == len(files) else files
    return [
        _Run(f"{name}: " if names.count(name) == 1 else f"{name} ({place}): ", run)
        for place, (name, run) in enumerate(zip(names, report.runs, strict=True), start=1)
    ]


def _one_of_many(run: _Run, line: Lines) -> Lines:
    """The line without its band, in the tone of the run's alerts; one with errors is dashed."""
    bad = run.severity == "error"
    name = run.name.removesuffix(": ")
    return replace(line, name=name, low=(), high=(), band="", tone=TONES[run.severity], dashed=bad)


def _curve(name: str, curve: Curve, *, marked: bool = False) -> Lines:
    points = curve.points
    banded = any(point.low != point.high for point in points)
    return Lines(
        name,
        [point.step for point in points],
        [point.mean for point in points],
        [point.low for point in points] if banded else (),
        [point.high for point in points] if banded else (),
        band="lowest to highest of neighbouring steps" if banded else "",
        marked=marked,
    )


def _scale(what: str, curves: Sequence[Curve]) -> Scale:
    values = [point.mean for curve in curves for point in curve.points]
    return "log" if what == "loss" and max(values) > WIDE * median(values) > 0 else "linear"


# ---------------------------------------------------------------- what is said of them


def _sentence(runs: Sequence[_Run], spoken: Sequence[str]) -> str:
    """One sentence; of several runs a clause for each with its name."""
    clauses = [f"{run.name}{text}" for run, text in zip(runs, spoken, strict=True)]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}." if not runs[0].name else f"{text}."


def _sentence_of_many(what: str, curves: Sequence[tuple[_Run, Curve]]) -> str:
    """How many came to a better value, which came to the best, and what the lines say by their look."""
    sign = 1 if what == "reward" else -1
    ends = [(run, curve.first, curve.last) for run, curve in curves]
    known = [(run, first, last) for run, first, last in ends if first is not None and last is not None]
    better = sum(sign * (last - first) > 0 for _, first, last in known)
    way, most = ("higher", "highest") if what == "reward" else ("lower", "lowest")
    said = f"Of {plural(len(curves), 'run')} {count(better)} end with a {way} training {what} than they begin with"
    sound = [one for one in known if one[0].severity != "error"]
    if sound:
        best, _, last = max(sound, key=lambda one: sign * one[2])
        said += f"; the {most} at the end without an error is {sig(last)} ({best.name.removesuffix(': ')})"
    severities = [run.severity for run, _ in curves]
    looks = [f"dashed: {count(severities.count('error'))} with errors"] if "error" in severities else []
    looks += (
        [f"orange: {count(severities.count('warning'))} with warnings"] if "warning" in severities else []
    )
    return f"{said}. {'; '.join(looks).capitalize()}." if looks else f"{said}."


def _events(runs: Sequence[_Run]) -> list[Reference]:
    if len(runs) > FEW:
        return []
    events = [
        replace(event, label=f"{run.name}{event.label}") for run in runs for event in events_of(run.report)
    ]
    return together(events, max(run.report.last_step or 0 for run in runs))


def together(events: Sequence[Reference], steps: int) -> list[Reference]:
    """Return the events in their order; of those whose labels would lie on each other the first names all.

    steps: of the longest run.
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


def events_of(run: RunReport) -> list[Reference]:
    """Return where a run was resumed, and the steps that its alerts name."""
    codes: dict[int, list[str]] = {}
    for alert in run.alerts:
        for evidence in alert.evidence[:1]:
            if evidence.step is not None:
                codes.setdefault(evidence.step, []).append(alert.code)
    resumed = [Reference(step, "resumed", on="x") for step in run.resumed_from]
    return [
        *resumed,
        *(Reference(step, ", ".join(said), on="x", tone="warn") for step, said in sorted(codes.items())),
    ]
