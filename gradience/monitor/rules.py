"""Rules of monitor: one function for each rule, and one line in `RULES`.

Thresholds are constants beside their rule; docs/reference/monitor_rules.md gives their source and the runs
that they were tried on, and tests/monitor has one real run that triggers the rule and one that must not.

In reinforcement learning the loss is not judged: advantages within a group add up to zero, so with one update a batch
GRPO's loss is little more than its KL term (Shao et al., DeepSeekMath, 2024, eq. 3) and may well rise while the policy
improves.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from gradience import learning_rate as lr
from gradience.monitor.facts import RankPoint, RunFacts, Series, Split, settled_since
from gradience.ranks import DEFAULT_GRID, percentile, round_up
from gradience.reports.base.numbers import sig
from gradience.reports.monitor import Confidence, Evidence, Setup
from gradience.rules import NotApplicable, Rule, need, rule
from gradience.telemetry.records import Method
from gradience.words import counted

DEFAULT_GAP_THRESHOLD = 1.5
MIN_LOGS = 8
"""Points below which a series says nothing."""


class MonitoredRun(NamedTuple):
    """One run: its records, its configuration, and the user's settings."""

    facts: RunFacts
    setup: Setup
    gap_threshold: float = DEFAULT_GAP_THRESHOLD
    """exp(evaluation loss − training loss) from which a gap is an alert."""


@dataclass(frozen=True, slots=True)
class Observation:
    """Observation of one rule."""

    message: str
    evidence: tuple[Evidence, ...]
    confidence: Confidence
    action: str = ""
    """Suggested action; empty if there is none."""
    reason: str = ""


Observations = Iterator[Observation]


def need_method(run: MonitoredRun, *methods: Method) -> RunFacts:
    """Return the facts of a run of one of these methods. Raises NotApplicable for any other."""
    if run.setup.method not in methods:
        raise NotApplicable
    return run.facts


def need_falling_loss(run: MonitoredRun) -> RunFacts:
    """Return the facts of a run. Raises NotApplicable in reinforcement learning: there the reward is to rise."""
    return need_method(run, "supervised", "preference")


def need_logs(series: Series, least: int = MIN_LOGS) -> Series:
    """Return a series that is long enough to say something. Raises NotApplicable for any other."""
    if series.count < least:
        raise NotApplicable
    return series


def evidence(label: str, value: float | str | None, step: int | None = None) -> tuple[Evidence, ...]:
    """Return one piece of evidence; empty if there is no value."""
    return () if value is None else (Evidence(what=label, value=value, step=step),)


# ---------------------------------------------------------------- broken numbers, and the shape of the loss curve

OWN = "Gradience (docs/reference/monitor_rules.md)"
IEEE = "IEEE 754: NaN propagates through every sum"


@rule("nonfinite", "error", IEEE)
def nonfinite(run: MonitoredRun) -> Observations:
    """NaN or infinity in losses, gradients or LoRA weights."""
    facts = run.facts
    broken: tuple[Evidence, ...] = ()
    for label, series in (("loss", facts.loss), ("gradient norm", facts.grad_norm)):
        if series.nonfinite:
            broken += evidence(
                f"first NaN or infinite {label}", str(series.last), series.first_nonfinite_step
            )
    for name, split in facts.splits.items():
        if split.losses.nonfinite:
            broken += evidence(
                f"first NaN loss on {name}", str(split.losses.last), split.losses.first_nonfinite_step
            )
    last = facts.last_spectra
    if last is not None and (modules := last.count("nonfinite")):
        broken += evidence("LoRA modules with NaN or infinity", modules, last.step)
    if not broken:
        return
    first = min((e.step for e in broken if e.step is not None), default=None)
    hidden = (
        facts.grad_norm.nonfinite and facts.loss.nonfinite == facts.hidden_losses and run.setup.nan_filter
    )
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
def gradient_explosion(run: MonitoredRun) -> Observations:
    """A gradient norm fifty times above what is usual in the run: its median, or its first quarter.

    The first quarter counts because the gradients of a solved task vanish, and anything towers above them.
    """
    norms = need_logs(need_falling_loss(run).grad_norm)
    top, usual = need(norms.highest), max(need(norms.median()), need(norms.level(0, 0.25)))
    if usual <= 0 or top.high < EXPLODED * usual:
        return
    yield Observation(
        f"the gradient norm reached {sig(top.high)}, {top.high / usual:.0f} times the usual norm of this run",
        evidence("largest gradient norm", top.high, top.high_step) + evidence("usual", usual),
        "high",
        "clip gradients (max_grad_norm = 1.0), warm up longer, or lower the learning rate",
        "a single step of that size can undo the training before it",
    )


LOSS_EXPLODED = 10.0


@rule("loss-explosion", "warning", OWN)
def loss_explosion(run: MonitoredRun) -> Observations:
    """A logged loss ten times above the first one."""
    loss = need_logs(need_falling_loss(run).loss)
    first, top = need(loss.first), need(loss.highest)
    if first <= 0 or top.high < LOSS_EXPLODED * first:
        return
    yield Observation(
        f"the loss reached {sig(top.high)}, {sig(top.high / first)} times the first logged loss",
        evidence("largest loss", top.high, top.high_step) + evidence("first loss", first),
        "high",
        f"check the examples used shortly before step {top.high_step}, and the learning rate there",
        "one example with a wrong label or an extreme value can cause this; so can too large a step",
    )


DIVERGED = 1.5
"""The end is this much above the start."""
LOST = 2.0
"""… or above the best level that was reached, by this factor and by half of the start."""


@rule("divergence", "error", OWN)
def divergence(run: MonitoredRun) -> Observations:
    """The loss ends far above where it started or has been."""
    loss = need_logs(need_falling_loss(run).loss)
    first, end, low = need(loss.first), need(loss.level(0.8, 1.0)), need(loss.lowest)
    above_start = end > DIVERGED * first
    above_best = end > LOST * max(low.mean, 0.0) and end - low.mean > 0.5 * first
    if first <= 0 or not (above_start or above_best):
        return
    yield Observation(
        f"the last fifth of the run has a mean loss of {sig(end)}, after {sig(low.low)} at step {low.low_step}",
        evidence("first logged loss", first)
        + evidence("lowest loss", low.low, low.low_step)
        + evidence("mean of the last fifth", end, loss.last_step),
        "high" if above_start else "medium",
        "divide the learning rate by 10 and rerun",
        "a loss that rises and stays up usually comes from steps that are too large",
    )


# ---------------------------------------------------------------- evaluations, and none at all

PRECHELT = "Prechelt, Early Stopping — But When? (1998)"


@rule("no-evaluation", "warning", OWN)
def no_evaluation(run: MonitoredRun) -> Observations:
    """A run without an evaluation, if no evaluation elsewhere is recorded."""
    facts = need_falling_loss(run)
    if facts.splits or facts.loss.count < MIN_LOGS or run.setup.evaluated_by:
        return
    yield Observation(
        "nothing was evaluated during training",
        evidence("number of logged losses", facts.loss.count, facts.last_step),
        "medium",
        'hold out some examples: eval_dataset=…, eval_strategy="steps"; if you evaluate after training, say so:'
        ' GradienceCallback(evaluated_by="…")',
        "without an evaluation, learning and memorization look the same",
    )


@rule("memorization-gap", "warning", "the threshold of the original Gradience, 1.5")
def memorization_gap(run: MonitoredRun) -> Observations:
    """The last evaluation is far above the training loss: exp(difference) reaches the threshold."""
    facts = need_method(run, "supervised")
    for name, split in _with_losses(facts):
        last = split.last
        if last is None or last.loss is None or last.train_loss is None:
            continue
        if not (math.isfinite(last.loss) and math.isfinite(last.train_loss)):
            continue
        ratio = math.exp(min(last.loss - last.train_loss, 700.0))
        if ratio >= run.gap_threshold:
            yield Observation(
                f"{name} loss {sig(last.loss)}, recent training loss {sig(last.train_loss)}"
                f" (perplexity ratio {sig(ratio)})",
                evidence(f"loss on {name}", last.loss, last.step)
                + evidence("recent training loss", last.train_loss, last.step)
                + evidence("threshold of the perplexity ratio", run.gap_threshold),
                "high" if split.count > 1 else "medium",
                "train for fewer epochs, or on more (or more varied) examples",
                "the model fits its training examples much better than held-out ones",
            )
            return


RISEN = 0.05
MIN_EVALUATIONS = 3


@rule("overfitting", "warning", PRECHELT)
def overfitting(run: MonitoredRun) -> Observations:
    """The evaluation loss has risen by 5 % above its best while the training loss went on falling."""
    facts = need_falling_loss(run)
    for name, split in _with_losses(facts):
        best, last = split.best, split.last
        if best is None or last is None or best.loss is None or last.loss is None:
            continue
        if split.count < MIN_EVALUATIONS or not last.loss > (1 + RISEN) * best.loss or best.step == last.step:
            continue
        if best.train_loss is None or last.train_loss is None or last.train_loss >= best.train_loss:
            continue
        yield Observation(
            f"{name} loss was lowest at step {best.step} ({sig(best.loss)}) and has risen to {sig(last.loss)}",
            evidence("best", best.loss, best.step) + evidence("last", last.loss, last.step),
            "high" if last.loss > (1 + 2 * RISEN) * best.loss else "medium",
            f"use the checkpoint of step {best.step}; set load_best_model_at_end and early stopping",
            "held-out loss is now higher than at that step, although training loss is lower",
        )
        return


def _with_losses(facts: RunFacts) -> list[tuple[str, Split]]:
    return [(name, split) for name, split in facts.splits.items() if split.losses.count]


# ---------------------------------------------------------------- use of rank, at the end of a run that did not break

ADAPTERS = "122 adapters of strangers and repeated runs (docs/reference/monitor_rules.md)"
ZERO_B = "LoRA's initialization B = 0 (Hu et al., 2021)"


@rule("untrained-modules", "warning", ZERO_B)
def untrained_modules(run: MonitoredRun) -> Observations:
    """Some modules have ΔW = 0 although others train."""
    last = need(run.facts.last_spectra)
    untrained = last.count("untrained")
    if not untrained or not last.step:
        return
    yield Observation(
        f"ΔW is still zero in {untrained} of {counted(last.count('modules'), 'LoRA module')}",
        evidence("modules with ΔW = 0", untrained, last.step),
        "high",
        "check that the forward pass uses these modules and that gradients reach them",
        "B starts at zero and moves with the first gradient",
    )


SATURATED_AT = 7 / 8
"""A module is saturated when 90 % of its energy needs at least this share of its rank. Trained adapters of rank 8 or
more practically never do; a rank that is too small for its task is needed until the end."""
SATURATED_SHARE = 0.5
"""Share of trained modules that must be saturated before the rank is called too small."""
UNUSED_AT = Fraction(1, 4)
"""The rank is far too large when nine modules of ten need at most this share of it."""


@rule("rank-too-small", "warning", ADAPTERS)
def rank_too_small(run: MonitoredRun) -> Observations:
    """At least half of the modules need nearly all of their rank, and the picture has settled."""
    point = _settled_point(run)
    modules = point.measured
    count = sum(r > 1 and k >= math.ceil(SATURATED_AT * r) for r, k in modules)
    if count < SATURATED_SHARE * len(modules):
        return
    alpha, top = run.setup.alpha, max(point.ranks)
    doubled = f"{2 * alpha:g} (same α/r)" if alpha else "twice the old one"
    median = float(percentile([k for _, k in modules], 50))
    yield Observation(
        f"{count} of {counted(len(modules), 'module')} use nearly their full rank of {top}",
        evidence(f"modules whose k@90 reaches {SATURATED_AT:.0%} of their rank", count, point.step)
        + evidence("median k@90", median, point.step),
        "medium",
        f"try rank {2 * top} with α = {doubled} and compare the evaluation",
        "an update that fills its rank may need more rank; only an evaluation can tell",
    )


@rule("rank-too-large", "info", ADAPTERS)
def rank_too_large(run: MonitoredRun) -> Observations:
    """Nine modules of ten hold 90 % of their energy in a quarter of their rank, and the picture has settled."""
    point = _settled_point(run)
    top = max(point.ranks)
    if top <= 2 or percentile([Fraction(k, r) for r, k in point.measured], 90) > UNUSED_AT:
        return
    needed = float(percentile([k for _, k in point.measured], 90))
    rank, _ = round_up(needed, DEFAULT_GRID, ceiling=top)
    yield Observation(
        f"90 % of modules have 90 % of their energy in at most {needed:g} of {top} directions",
        evidence("k@90, 90th percentile of modules", needed, point.step) + evidence("allocated rank", top),
        "medium",
        f"audit the adapter; rank {rank} may be enough (retrain or truncate, then evaluate)",
        "energy is only a crude proxy for importance",
    )


def _settled_point(run: MonitoredRun) -> RankPoint:
    """Return the last measurement. Raises NotApplicable if k@90 has not settled, B·A is not ΔW, or the run broke."""
    facts = run.facts
    broken = any(rule.statements(run) for rule in (nonfinite, divergence))
    if broken or settled_since(facts.recent) is None or facts.modules.get("starts_at_zero") is False:
        raise NotApplicable
    return facts.recent[-1]


# ---------------------------------------------------------------- how the run was set up, and how it ended


@rule("learning-rate", "warning", lr.THINKING_MACHINES)
def learning_rate(run: MonitoredRun) -> Observations:
    """The peak learning rate is more than ten times off what width and α suggest for LoRA with AdamW.

    The peak is the configured one: a log between two steps of a schedule never shows it.
    """
    setup, top = run.setup, need_method(run, "supervised").lr.highest
    peak = max(setup.learning_rate or 0.0, top.high if top else 0.0)
    if not peak or not setup.r or not setup.alpha or not lr.is_adam_like(setup.optimizer):
        return
    alpha = lr.effective_alpha(setup.r, setup.alpha, rslora=setup.rslora)
    reference = lr.reference_lr(setup.hidden_size, alpha, setup.model)
    ratio = peak / reference
    if 1 / lr.LR_TOLERANCE <= ratio <= lr.LR_TOLERANCE:
        return
    high, by = ratio > 1, max(ratio, 1 / ratio)
    yield Observation(
        f"the learning rate {lr.rate(peak)} is far {'above' if high else 'below'} the reference for α = {setup.alpha:g}"
        f" (factor {float(f'{by:.2g}'):,.0f})",
        evidence("peak learning rate", peak)
        + evidence("reference", reference)
        + evidence("α/r", alpha / setup.r),
        "medium" if setup.hidden_size else "low",
        f"{'lower' if high else 'raise'} the learning rate to about {lr.rate(reference, 1)}",
        "the best learning rate of LoRA is typically about ten times that of full fine-tuning and hardly depends on"
        " the rank if α stays the same",
    )


@rule("run-error", "error", "the run's own `run_end`")
def run_error(run: MonitoredRun) -> Observations:
    """The run ended with an error."""
    facts = run.facts
    if facts.end is None or facts.end.text("status") != "error":
        return
    reason = facts.end.text("reason") or "no reason recorded"
    yield Observation(
        f"the run ended with an error: {reason}",
        evidence("last step", facts.last_step),
        "high",
        "see the training's log for the traceback",
        "run.jsonl records the type of an exception, never its text",
    )


RULES: tuple[Rule[MonitoredRun, Observation], ...] = (
    run_error,
    nonfinite,
    divergence,
    loss_explosion,
    gradient_explosion,
    overfitting,
    memorization_gap,
    learning_rate,
    no_evaluation,
    untrained_modules,
    rank_too_small,
    rank_too_large,
)
"""In the order of the report: errors first."""
