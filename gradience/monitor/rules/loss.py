"""Broken numbers, and the shape of the loss curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradience.monitor.run import (
    MIN_LOGS,
    Observation,
    Observations,
    Run,
    evidence,
    need_falling_loss,
    need_logs,
)
from gradience.monitor.series import Series
from gradience.reports.monitor import Evidence
from gradience.rules import need, rule

OWN = "Gradience (docs/reference/monitor_rules.md)"
IEEE = "IEEE 754: NaN propagates through every sum"


@rule("nonfinite", "error", IEEE)
def nonfinite(run: Run) -> Observations:
    """NaN or infinity in losses, gradients or LoRA weights."""
    facts = run.facts
    broken: tuple[Evidence, ...] = ()
    for what, series in (("loss", facts.loss), ("gradient norm", facts.grad_norm)):
        if series.nonfinite:
            broken += evidence(f"first NaN or infinite {what}", str(series.last), series.first_nonfinite_step)
    for name, split in facts.splits.items():
        if split.losses.nonfinite:
            broken += evidence(
                f"first NaN loss on {name}", str(split.losses.last), split.losses.first_nonfinite_step
            )
    if facts.nonfinite_modules:
        step = facts.last_spectra.step if facts.last_spectra else None
        broken += evidence("LoRA modules with NaN or infinity", facts.nonfinite_modules, step)
    if not broken:
        return
    first = min((e.step for e in broken if e.step is not None), default=None)
    hidden = facts.grad_norm.nonfinite and not facts.loss.nonfinite and run.setup.nan_filter
    note = "; the Trainer's logging_nan_inf_filter hid it from the logged loss" if hidden else ""
    yield Observation(
        f"NaN or infinity since step {first}{note}",
        broken,
        "high",
        "go back to a checkpoint before that step, and check the data and the precision there",
        "weights that are NaN never recover; usual causes are a missing label, a row without any label to"
        " predict, float16, or a learning rate far too high",
    )


EXPLODED = 50.0


@rule("gradient-explosion", "warning", OWN)
def gradient_explosion(run: Run) -> Observations:
    """A gradient norm fifty times above what is usual in the run: its median, or its first quarter.

    The first quarter counts because the gradients of a solved task vanish, and anything towers above them.
    """
    norms = need_logs(need_falling_loss(run).grad_norm)
    top, usual = need(norms.highest), max(need(norms.median()), need(norms.level(0, 0.25)))
    if usual <= 0 or top.high < EXPLODED * usual:
        return
    yield Observation(
        f"the gradient norm reached {top.high:.3g}, {top.high / usual:.0f} times what is usual in this run",
        evidence("largest gradient norm", top.high, top.high_step) + evidence("usual", usual),
        "high",
        "clip gradients (max_grad_norm = 1.0), warm up longer, or lower the learning rate",
        "a single step of that size can undo the training before it",
    )


LOSS_EXPLODED = 10.0


@rule("loss-explosion", "warning", OWN)
def loss_explosion(run: Run) -> Observations:
    """A logged loss ten times above the first one."""
    loss = need_logs(need_falling_loss(run).loss)
    first, top = need(loss.first), need(loss.highest)
    if first <= 0 or top.high < LOSS_EXPLODED * first:
        return
    yield Observation(
        f"the loss reached {top.high:.3g}, {top.high / first:.3g} times the first one",
        evidence("largest loss", top.high, top.high_step) + evidence("first loss", first),
        "high",
        f"look at the rows that were trained on shortly before step {top.high_step}, and at the learning rate there",
        "one row with a wrong label or an extreme value can do this, and so can a step that is too large",
    )


# ------------------------------------------------------------------ the loss curve

DIVERGED = 1.5
"""The end is this much above the start."""
LOST = 2.0
"""… or above the best level that was reached, by this factor and by half of the start."""


@rule("divergence", "error", OWN)
def divergence(run: Run) -> Observations:
    """The loss ends far above where it started or has been."""
    loss = need_logs(need_falling_loss(run).loss)
    first, end, low = need(loss.first), need(loss.level(0.8, 1.0)), need(loss.lowest)
    above_start = end > DIVERGED * first
    above_best = end > LOST * max(low.mean, 0.0) and end - low.mean > 0.5 * first
    if first <= 0 or not (above_start or above_best):
        return
    yield Observation(
        f"the last fifth of the run has a mean loss of {end:.3g}, after {low.low:.3g} at step {low.low_step}",
        evidence("first logged loss", first)
        + evidence("lowest loss", low.low, low.low_step)
        + evidence("mean of the last fifth", end, loss.last_step),
        "high" if above_start else "medium",
        "lower the learning rate (by ten, then look again)",
        "a loss that rises and stays up usually comes from steps that are too large",
    )


FLAT = 0.01
FLAT_LR = 0.3
SOLVED = 0.02
"""A loss so small that a relative change says nothing."""


@rule("plateau", "info", OWN)
def plateau(run: Run) -> Observations:
    """Less than one percent gained in the second half, while the learning rate was still up.

    The difference must also be small against the scatter of the halves' points, else it is not known.
    """
    facts = need_falling_loss(run)
    loss = need_logs(facts.loss, 2 * MIN_LOGS)
    before, after = need(loss.level(0.25, 0.5)), need(loss.level(0.75, 1.0))
    lr_then, lr_top = need(facts.lr.level(0.75, 1.0)), need(facts.lr.highest)
    if before <= 0 or loss.nonfinite or lr_then < FLAT_LR * lr_top.high or after < SOLVED:
        return
    if abs(before - after) / before >= max(FLAT, 2 * _standard_error(loss) / before):
        return
    yield Observation(
        f"the loss has not moved since about step {loss.part(0.5, 0.5)[0].first_step}",
        evidence("mean loss, second quarter", before)
        + evidence("mean loss, last quarter", after)
        + evidence("learning rate, last quarter", lr_then),
        "medium",
        "stop here, or change the learning rate, the data or the adapted modules",
        "more steps of the same kind are unlikely to help",
    )


IMPROVING = 0.1


@rule("still-improving", "info", OWN)
def still_improving(run: Run) -> Observations:
    """The last quarter gained ten percent over the third, beyond the noise, and no evaluation was better before."""
    facts = need_falling_loss(run)
    loss = need_logs(facts.loss, 2 * MIN_LOGS)
    before, after = need(loss.level(0.5, 0.75)), need(loss.level(0.75, 1.0))
    evaluated = [
        split for split in facts.splits.values() if split.last is not None and split.best is not None
    ]
    if (
        loss.nonfinite
        or before <= 0
        or after < SOLVED
        or any(split.last != split.best for split in evaluated)
    ):
        return
    gain = (before - after) / before
    if gain < max(IMPROVING, 2 * _standard_error(loss, ((0.5, 0.75), (0.75, 1.0))) / before):
        return
    yield Observation(
        f"the loss was still falling when the training ended: {100 * gain:.0f} % in the last quarter",
        evidence("mean loss, third quarter", before)
        + evidence("mean loss, last quarter", after, loss.last_step),
        "medium",
        f"train for more steps (here {loss.last_step}), with a schedule made for them",
        "a longer training may end lower; ranks and spectra of an unfinished training look smaller",
    )


def _standard_error(loss: Series, parts: Sequence[tuple[float, float]] = ((0.25, 0.5), (0.75, 1.0))) -> float:
    """Standard error of the difference between two parts of the loss curve."""
    errors = []
    for start, end in parts:
        means = [bucket.mean for bucket in loss.part(start, end)]
        center = sum(means) / len(means)
        variance = sum((mean - center) ** 2 for mean in means) / max(len(means) - 1, 1)
        errors.append(variance / len(means))
    return math.sqrt(sum(errors))
