"""What changed over the steps of a training, as several checkpoints were audited: use of rank, the stable rank of each
layer; and KL over the steps of a distillation. What a run logged is in runs.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median

from gradience.report.audit.series import step_number
from gradience.report.audit.view import trained_layers
from gradience.report.plots.plot import Axis, Lines, Plot, Reference
from gradience.reports.audit import AuditReport
from gradience.reports.base.numbers import count, sig, trimmed
from gradience.reports.distill import DistillReport

STEP = Axis("step", form="count")
LAYER = Axis("stable rank, median of the layer", low=1.0)


def distill_plot(report: DistillReport) -> Plot | None:
    """Return KL from the original over the steps of a distillation, on the rows that decide when to stop."""
    steps = [check.step for check in report.checks]
    return Plot(
        "kl",
        "KL from the original during distillation",
        STEP,
        Axis("KL", "nats per scored token", low=0.0),
        [Lines("rows that decide", steps, [check.kl for check in report.checks], marked=True)],
        f"On the rows held out KL from the original goes from {sig(report.before.kl)} to {sig(report.after.kl)} nats"
        " per scored token.",
        [Reference(report.best_step, "kept", on="x", tone="good")],
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
    lines = shaded(of_layer, at)
    return Plot(
        "stable-rank-by-layer",
        "Stable rank of each layer",
        axis,
        LAYER,
        lines,
        f"Median stable rank of {count(len(of_layer))} layers over {count(len(reports))} checkpoints."
        f"{shades_said(lines)}",
    )


def shaded(
    of_layer: Mapping[str, Sequence[float | None]], at: Sequence[int], run: str = "", *, dashed: bool = False
) -> list[Lines]:
    """Return a line for each layer, the first dark and the last light."""
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


def shades_said(lines: Sequence[Lines]) -> str:
    """A sentence on what the shades are, where several lines have one; else nothing."""
    depths = {line.shade for line in lines if line.shade is not None}
    return " Early layers are dark, late ones light." if len(depths) > 1 else ""


def _medians(report: AuditReport) -> Iterable[tuple[str, float]]:
    """Layer -> the median stable rank of its modules, in the order of the layers."""
    layers: dict[tuple[int, str], list[float]] = {}
    for layer in trained_layers(report):
        if layer.layer is not None and layer.stable_rank is not None:
            layers.setdefault((layer.layer_index or 0, layer.layer), []).append(layer.stable_rank)
    return [(name, float(median(values))) for (_, name), values in sorted(layers.items())]
