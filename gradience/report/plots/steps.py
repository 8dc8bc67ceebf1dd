"""What changed over the steps of a training: loss, use of rank, events; and the stable rank of each layer, as a run
measured it or as several checkpoints were audited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from gradience.artifacts.audit import AuditReport
from gradience.artifacts.heal import HealReport
from gradience.artifacts.monitor import Curve, MonitorReport, RunReport
from gradience.report.audit.series import step_number
from gradience.report.audit.trend import short_names
from gradience.report.audit.view import trained_layers
from gradience.report.numbers import count, plural, sig, trimmed
from gradience.report.plots.plot import Axis, Lines, Plot, Reference, Series

STEP = Axis("step")
LAYER = Axis("stable rank, median of the layer", low=1.0)


def loss_plot(report: MonitorReport) -> Plot | None:
    """Return the loss of each run (in reinforcement learning the reward), with evaluations and events."""
    runs = [(name, run, *_progress(run)) for name, run in _named(report)]
    runs = [one for one in runs if one[3].points]
    if not runs:
        return None
    what = runs[0][2]
    series: list[Series] = []
    for name, run, said, curve in runs:
        series.append(_curve(f"{name}training {said}", curve))
        if run.rewards is None:
            series += [
                _curve(f"{name}{split} loss", of.loss, marked=True)
                for split, of in run.evaluations.items()
                if of.loss.points
            ]
    spoken = [
        f"the training {said} goes from {sig(curve.first)} to {sig(curve.last)} over {count(run.last_step or 0)} steps"
        for _, run, said, curve in runs
    ]
    return Plot(
        "loss",
        f"{what[0].upper()}{what[1:]}",
        STEP,
        Axis(what),
        series,
        _sentence([name for name, *_ in runs], spoken),
        _events([(name, run) for name, run, *_ in runs]),
    )


def rank_plot(report: MonitorReport) -> Plot | None:
    """Return the use of rank over the steps of each run that measured it."""
    runs = [(name, run, run.rank_use) for name, run in _named(report)]
    measured = [(name, run, use) for name, run, use in runs if use is not None and use.points]
    if not measured:
        return None
    series: list[Series] = []
    spoken: list[str] = []
    for name, _, use in measured:
        steps = [point.step for point in use.points]
        curves = {
            "k@90, median module": [point.energy_rank_90_p50 for point in use.points],
            "k@90, 90th percentile": [point.energy_rank_90_p90 for point in use.points],
            "stable rank, median": [point.stable_rank_median for point in use.points],
        }
        series += [Lines(f"{name}{what}", steps, values, marked=True) for what, values in curves.items()]
        last = use.points[-1]
        spoken.append(
            f"the median module has k@90 {trimmed(last.energy_rank_90_p50)} at step {count(last.step)}, of"
            f" {count(use.modules)} modules with rank {use.max_rank or 'unknown'}"
        )
    return Plot(
        "rank",
        "Use of rank",
        STEP,
        Axis("directions", low=0.0),
        series,
        _sentence([name for name, *_ in measured], spoken),
        _events([(name, run) for name, run, _ in measured]),
    )


def layers_plot(report: MonitorReport) -> Plot | None:
    """Return the stable rank of each transformer layer over the steps of each run that measured it."""
    runs = [(name, run, run.rank_use) for name, run in _named(report)]
    measured = [(name, run, use) for name, run, use in runs if use is not None and use.layers]
    if not measured:
        return None
    series: list[Series] = []
    spoken: list[str] = []
    for place, (name, _, use) in enumerate(measured):
        steps = [point.step for point in use.points]
        layers = {row.layer: row.stable_rank_median for row in use.layers}
        series += _shaded(layers, steps, name, dashed=place > 0)
        spoken.append(
            f"median stable rank of {plural(len(layers), 'layer')} over {plural(len(steps), 'measurement')}"
        )
    return Plot(
        "stable-rank-by-layer",
        "Stable rank of each layer",
        STEP,
        LAYER,
        series,
        _sentence([name for name, *_ in measured], spoken),
        _events([(name, run) for name, run, _ in measured]),
    )


def _named(report: MonitorReport) -> list[tuple[str, RunReport]]:
    """Each run with what stands before its series: nothing for a single one, else its file and maybe its place."""
    if len(report.runs) == 1:
        return [("", report.runs[0])]
    files = [run.file for run in report.runs]
    names = short_names(files) if len(set(files)) == len(files) else files
    return [
        (f"{name}: " if names.count(name) == 1 else f"{name} ({place}): ", run)
        for place, (name, run) in enumerate(zip(names, report.runs, strict=True), start=1)
    ]


def _progress(run: RunReport) -> tuple[str, Curve]:
    if run.rewards is not None and run.rewards.reward.points:
        return "reward", run.rewards.reward
    return "loss", run.loss


def _sentence(names: Sequence[str], spoken: Sequence[str]) -> str:
    """One sentence; of several runs a clause for each with its name."""
    clauses = [f"{name}{text}" for name, text in zip(names, spoken, strict=True)]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}." if not names[0] else f"{text}."


def _events(runs: Sequence[tuple[str, RunReport]]) -> list[Reference]:
    return [replace(event, label=f"{name}{event.label}") for name, run in runs for event in events_of(run)]


def events_of(run: RunReport) -> list[Reference]:
    """Return where a run was resumed, and the steps that its alerts name."""
    resumed = [Reference(step, "resumed", on="x") for step in run.resumed_from]
    alerts = {
        evidence.step: alert.code
        for alert in run.alerts
        for evidence in alert.evidence[:1]
        if evidence.step is not None
    }
    return [*resumed, *(Reference(step, code, on="x", tone="warn") for step, code in sorted(alerts.items()))]


def heal_plot(report: HealReport) -> Plot | None:
    """Return KL from the original over the steps of a healing, on the rows that decide when to stop."""
    steps = [check.step for check in report.checks]
    return Plot(
        "kl",
        "KL from the original while healing",
        STEP,
        Axis("KL", "nats per scored token", low=0.0),
        [Lines("rows that decide", steps, [check.kl for check in report.checks], marked=True)],
        f"On the rows held out KL from the original goes from {sig(report.before.kl)} to {sig(report.after.kl)} nats"
        " per scored token.",
        [Reference(report.best_step, "kept", on="x", tone="good")],
    )


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


# ---------------------------------------------------------------- several checkpoints


def evolution_plots(reports: Sequence[AuditReport]) -> list[Plot]:
    """Return the use of rank over the audits of several checkpoints, and the stable rank of each layer.

    reports: in their order; a step that the name tells is its place, otherwise its number in the sequence.
    """
    steps = [step_number(report) for report in reports]
    known = [step for step in steps if step is not None]
    ordered = len(known) == len(steps) and known == sorted(set(known))
    at = known if ordered else list(range(1, len(reports) + 1))
    axis = STEP if ordered else Axis("checkpoint")
    return [_use(reports, at, axis), _stable_ranks(reports, at, axis)]


def _use(reports: Sequence[AuditReport], at: Sequence[int], axis: Axis) -> Plot:
    first, last = reports[0], reports[-1]
    return Plot(
        "rank",
        "Use of rank",
        axis,
        Axis("directions", low=0.0),
        [
            Lines("k@90, median module", at, [each.energy_rank_90_p50 for each in reports], marked=True),
            Lines("k@90, 90th percentile", at, [each.energy_rank_90_p90 for each in reports], marked=True),
            Lines("stable rank, median", at, [each.stable_rank_median for each in reports], marked=True),
        ],
        f"k@90 of the median module goes from {trimmed(first.energy_rank_90_p50)} to"
        f" {trimmed(last.energy_rank_90_p50)}, the median stable rank from {sig(first.stable_rank_median)} to"
        f" {sig(last.stable_rank_median)}.",
    )


def _stable_ranks(reports: Sequence[AuditReport], at: Sequence[int], axis: Axis) -> Plot:
    """One line for each transformer layer: the median of its modules."""
    of_layer: dict[str, list[float | None]] = {}
    for place, report in enumerate(reports):
        for layer, value in _medians(report):
            of_layer.setdefault(layer, [None] * len(reports))[place] = value
    return Plot(
        "stable-rank-by-layer",
        "Stable rank of each layer",
        axis,
        LAYER,
        _shaded(of_layer, at),
        f"Median stable rank of {count(len(of_layer))} layers over {count(len(reports))} checkpoints.",
    )


def _shaded(
    of_layer: Mapping[str, Sequence[float | None]], at: Sequence[int], run: str = "", *, dashed: bool = False
) -> list[Lines]:
    """A line for each layer, the first dark and the last light."""
    return [
        Lines(
            f"{run}{name}",
            at,
            values,
            shade=place / max(1, len(of_layer) - 1),
            marked=len(at) < 3,
            dashed=dashed,
        )
        for place, (name, values) in enumerate(of_layer.items())
    ]


def _medians(report: AuditReport) -> Iterable[tuple[str, float]]:
    """Layer -> the median stable rank of its modules, in the order of the layers."""
    layers: dict[tuple[int, str], list[float]] = {}
    for layer in trained_layers(report):
        if layer.layer is not None and layer.stable_rank is not None:
            layers.setdefault((layer.layer_index or 0, layer.layer), []).append(layer.stable_rank)
    return [(name, float(median(values))) for (_, name), values in sorted(layers.items())]
