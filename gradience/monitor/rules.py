"""What monitor looks for. One function a rule, all rules in RULES, each with its source.

A rule sees facts and says nothing, or one finding. Thresholds are constants beside their rule; where they
come from is told in docs/monitor.md, and tests/monitor holds one real run where the rule speaks and one
where it must not.
"""

from __future__ import annotations

import math

from gradience.artifacts.monitor import Alert, Evidence, Recommendation
from gradience.monitor.facts import Evaluation, RunFacts, Split
from gradience.monitor.rule import Finding, Options, Rule, evidence
from gradience.monitor.setup import RunSetup
from gradience.practice import LR_TOLERANCE, THINKING_MACHINES, effective_alpha, reference_lr
from gradience.ranks import DEFAULT_GRID, round_up
from gradience.rankuse import SATURATED_AT, RankPoint, settled_since, too_large, too_small

ADAPTERS = "122 adapters of strangers and repeated runs (docs/monitor.md)"
OWN = "Gradience (docs/monitor.md)"


# ------------------------------------------------------------------ broken numbers


def nonfinite(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """NaN or infinity in losses, gradients or LoRA weights."""
    found: tuple[Evidence, ...] = ()
    for what, series in (("loss", facts.loss), ("gradient norm", facts.grad_norm)):
        if series.nonfinite:
            found += evidence(f"first NaN or infinite {what}", str(series.last), series.first_nonfinite_step)
    for name, split in facts.splits.items():
        if split.losses.nonfinite:
            found += evidence(
                f"first NaN loss on {name}", str(split.losses.last), split.losses.first_nonfinite_step
            )
    if facts.nonfinite_modules:
        step = facts.last_spectra.step if facts.last_spectra else None
        found += evidence("LoRA modules with NaN or infinity", facts.nonfinite_modules, step)
    if not found:
        return None
    first = min((e.step for e in found if e.step is not None), default=None)
    hidden = facts.grad_norm.nonfinite and not facts.loss.nonfinite and setup.nan_filter
    note = "; the Trainer's logging_nan_inf_filter hid it from the logged loss" if hidden else ""
    return Finding(
        f"NaN or infinity since step {first}{note}",
        found,
        "high",
        "go back to a checkpoint before that step, and look at the data and the precision there",
        "weights that are NaN never recover; usual causes are a missing label, a row without any label to"
        " predict, float16, or a learning rate far too high",
    )


EXPLODED = 100.0
MIN_LOGS = 8


def gradient_explosion(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """A gradient norm a hundred times above its own median."""
    series, median = facts.grad_norm, facts.grad_norm.median()
    top = series.highest
    if series.count < MIN_LOGS or not median or top is None or top.high < EXPLODED * median:
        return None
    return Finding(
        f"the gradient norm reached {top.high:.3g}, {top.high / median:.0f} times its median",
        evidence("largest gradient norm", top.high, top.high_step) + evidence("median", median),
        "high",
        "clip gradients (max_grad_norm = 1.0), warm up longer, or lower the learning rate",
        "a single step of that size can undo the training before it",
    )


# ------------------------------------------------------------------ the loss curve

DIVERGED = 1.5
"""The end is this much above the start."""
LOST = 2.0
"""… or above the best level that was reached, by this factor and by half of the start."""


def divergence(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """The loss ends far above where it started or has been."""
    if facts.loss.count < MIN_LOGS:
        return None
    first, end = facts.loss.first, facts.loss.level(0.8, 1.0)
    low = facts.loss.lowest
    if first is None or end is None or low is None or first <= 0:
        return None
    above_start = end > DIVERGED * first
    above_best = end > LOST * max(low.mean, 0.0) and end - low.mean > 0.5 * first
    if not (above_start or above_best):
        return None
    return Finding(
        f"the loss ends at {end:.3g}, after {low.low:.3g} at step {low.low_step}",
        evidence("first logged loss", first)
        + evidence("lowest loss", low.low, low.low_step)
        + evidence("mean of the last fifth", end, facts.loss.last_step),
        "high" if above_start else "medium",
        "lower the learning rate (by ten, then look again)",
        "a loss that leaves and does not come back is a step size the model cannot follow",
    )


FLAT = 0.01
FLAT_LR = 0.3


def plateau(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """Less than one percent gained in the second half, while the learning rate was still up.

    The difference must also be small against the scatter of the halves' points, else it is not known.
    """
    series = facts.loss
    before, after = series.level(0.25, 0.5), series.level(0.75, 1.0)
    if series.count < 2 * MIN_LOGS or before is None or after is None or before <= 0 or facts.loss.nonfinite:
        return None
    lr_then, lr_top = facts.lr.level(0.75, 1.0), facts.lr.highest
    if lr_then is None or lr_top is None or lr_then < FLAT_LR * lr_top.high:
        return None
    gain = (before - after) / before
    noise = 2 * _standard_error(facts) / before
    if abs(gain) >= max(FLAT, noise) or _solved(after):
        return None
    part = series.part(0.5, 0.5)
    return Finding(
        f"the loss has not moved since about step {part[0].first_step}",
        evidence("mean loss, second quarter", before)
        + evidence("mean loss, last quarter", after)
        + evidence("learning rate, last quarter", lr_then),
        "medium",
        "stop here, or change the learning rate, the data or the adapted modules",
        "more steps of the same kind are unlikely to help",
    )


def _standard_error(facts: RunFacts) -> float:
    """Standard error of the difference between two quarters of the loss curve."""
    errors = []
    for start, end in ((0.25, 0.5), (0.75, 1.0)):
        means = [bucket.mean for bucket in facts.loss.part(start, end)]
        center = sum(means) / len(means)
        variance = sum((mean - center) ** 2 for mean in means) / max(len(means) - 1, 1)
        errors.append(variance / len(means))
    return math.sqrt(sum(errors))


SOLVED = 0.02


def _solved(loss: float) -> bool:
    """A loss so small that a relative change says nothing."""
    return loss < SOLVED


# ------------------------------------------------------------------ evaluation


def no_evaluation(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """A run without a single evaluation."""
    if facts.splits or facts.loss.count < MIN_LOGS:
        return None
    return Finding(
        "nothing was evaluated",
        evidence("logged losses", facts.loss.count, facts.last_step),
        "high",
        'hold some rows back: eval_dataset=…, eval_strategy="steps"',
        "without an evaluation nobody can tell learning from memorising",
    )


def memorization_gap(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """The last evaluation is far above the training loss: exp(difference) reaches the threshold."""
    for name, split in _with_losses(facts):
        last = split.last
        if last is None or last.loss is None or last.train_loss is None:
            continue
        if not (math.isfinite(last.loss) and math.isfinite(last.train_loss)):
            continue
        ratio = math.exp(min(last.loss - last.train_loss, 700.0))
        if ratio >= options.gap_threshold:
            return Finding(
                f"loss on {name} is {last.loss:.3g}, in training {last.train_loss:.3g}"
                f" (ratio of perplexities {ratio:.3g})",
                evidence(f"loss on {name}", last.loss, last.step)
                + evidence("training loss", last.train_loss, last.step)
                + evidence("threshold", options.gap_threshold),
                "high" if split.count > 1 else "medium",
                "train for fewer epochs, or with more or more varied rows",
                "the model knows its training rows better than the task",
            )
    return None


RISEN = 0.05
MIN_EVALUATIONS = 3


def overfitting(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """The evaluation loss has risen by 5 % above its best while the training loss went on falling."""
    for name, split in _with_losses(facts):
        best, last = split.best, split.last
        if best is None or last is None or best.loss is None or last.loss is None:
            continue
        if split.count < MIN_EVALUATIONS or not last.loss > (1 + RISEN) * best.loss or best.step == last.step:
            continue
        if not _training_fell(facts, best, last):
            continue
        return Finding(
            f"loss on {name} was best at step {best.step} ({best.loss:.3g}) and has risen to {last.loss:.3g}",
            evidence("best", best.loss, best.step) + evidence("last", last.loss, last.step),
            "high" if last.loss > (1 + 2 * RISEN) * best.loss else "medium",
            f"use the checkpoint of step {best.step}; set load_best_model_at_end and early stopping",
            "after the best evaluation the model went on to learn its training rows by heart",
        )
    return None


def _training_fell(facts: RunFacts, best: Evaluation, last: Evaluation) -> bool:
    return best.train_loss is not None and last.train_loss is not None and last.train_loss < best.train_loss


def _with_losses(facts: RunFacts) -> list[tuple[str, Split]]:
    return [(name, split) for name, split in facts.splits.items() if split.losses.count]


# ------------------------------------------------------------------ settings against results


def learning_rate(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """The peak learning rate is more than ten times off what width and α suggest for LoRA with AdamW."""
    top = facts.lr.highest
    peak = top.high if top else setup.learning_rate
    if not peak or not setup.r or not setup.alpha or not setup.is_adam:
        return None
    alpha = effective_alpha(setup.r, setup.alpha, rslora=setup.rslora)
    reference = reference_lr(setup.hidden_size, alpha, setup.model)
    ratio = peak / reference
    if 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        return None
    side = "above" if ratio > 1 else "below"
    by = ratio if ratio > 1 else 1 / ratio
    return Finding(
        f"the learning rate {peak:.2g} lies {by:.0f} times {side} what α = {setup.alpha:g} suggests",
        evidence("peak learning rate", peak)
        + evidence("reference", reference)
        + evidence("α/r", alpha / setup.r),
        "medium" if setup.hidden_size else "low",
        f"try {reference:.1g}",
        "the best learning rate of LoRA is about ten times that of full fine-tuning and hardly depends on the"
        " rank while α stays the same",
    )


# ------------------------------------------------------------------ rank


def untrained_modules(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """Some modules have ΔW = 0 although others train."""
    last = facts.last_spectra
    if last is None:
        return None
    untrained, modules = int(last.summary.get("untrained", 0)), int(last.summary.get("modules", 0))
    if not untrained or not last.step:
        return None
    return Finding(
        f"{untrained} of {modules} LoRA modules are still zero",
        evidence("modules with ΔW = 0", untrained, last.step),
        "high",
        "look whether these modules take part in the forward pass, and whether gradients reach them",
        "B starts at zero and moves with the first gradient",
    )


def rank_too_small(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """At least half of the modules need nearly all of their rank, and the picture has settled."""
    point = _settled_point(facts, setup, options)
    if point is None or not too_small(point):
        return None
    count = len(point.saturated())
    return Finding(
        f"{count} of {len(point.measured)} modules need nearly all of rank {max(point.ranks)}",
        evidence(f"modules whose k@90 reaches {SATURATED_AT:.0%} of their rank", count, point.step)
        + evidence("median k@90", point.needed_quantile(0.5), point.step),
        "medium",
        f"try rank {2 * max(point.ranks)} with α = {_doubled_alpha(setup)} and compare the evaluation",
        "an update that fills its rank may want more; only the evaluation can tell",
    )


def rank_too_large(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """Nine modules of ten hold 90 % of their energy in a quarter of their rank, and the picture has settled."""
    point = _settled_point(facts, setup, options)
    if point is None or not too_large(point):
        return None
    needed = point.needed_quantile(0.9) or 1.0
    rank, _ = round_up(needed, DEFAULT_GRID, ceiling=max(point.ranks))
    return Finding(
        f"nine modules of ten hold 90 % of their energy in {needed:g} of {max(point.ranks)} directions",
        evidence("k@90, 90th percentile of modules", needed, point.step)
        + evidence("allocated rank", max(point.ranks)),
        "medium",
        f"audit the adapter; rank {rank} may do (retrain or truncate, then evaluate)",
        "energy is a crude stand-in for importance: a hypothesis, not a verdict",
    )


def _doubled_alpha(setup: RunSetup) -> str:
    return f"{2 * setup.alpha:g} (same α/r)" if setup.alpha else "twice the old one"


def _settled_point(facts: RunFacts, setup: RunSetup, options: Options) -> RankPoint | None:
    """The last measurement, where it can be judged: k@90 stands still, B·A is ΔW, and the run did not break."""
    if not facts.recent or facts.modules.get("starts_at_zero") is False:
        return None
    if nonfinite(facts, setup, options) or divergence(facts, setup, options):
        return None
    return facts.recent[-1] if settled_since(facts.recent) is not None else None


# ------------------------------------------------------------------ the end


def run_error(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """The run ended with an error."""
    if facts.end is None or facts.end.text("status") != "error":
        return None
    reason = facts.end.text("reason") or "not said"
    return Finding(
        f"the run ended with an error: {reason}",
        evidence("last step", facts.last_step),
        "high",
        "see the training's own output for the traceback",
        "run.jsonl records the type of an exception, never its text",
    )


RULES = (
    Rule("run-error", "error", "the run's own `run_end`", run_error),
    Rule("nonfinite", "error", "IEEE 754: NaN propagates through every sum", nonfinite),
    Rule("divergence", "error", OWN, divergence),
    Rule("gradient-explosion", "warning", OWN, gradient_explosion),
    Rule("overfitting", "warning", "Prechelt, Early Stopping — But When? (1998)", overfitting),
    Rule("memorization-gap", "warning", "the public predecessor's threshold of 1.5", memorization_gap),
    Rule("learning-rate", "warning", THINKING_MACHINES, learning_rate),
    Rule("no-evaluation", "warning", OWN, no_evaluation),
    Rule("untrained-modules", "warning", "LoRA's initialisation B = 0 (Hu et al., 2021)", untrained_modules),
    Rule("rank-too-small", "warning", ADAPTERS, rank_too_small),
    Rule("rank-too-large", "info", ADAPTERS, rank_too_large),
    Rule("plateau", "info", OWN, plateau),
)


def judge(facts: RunFacts, setup: RunSetup, options: Options) -> tuple[list[Alert], list[Recommendation]]:
    """What every rule says about one run, errors first, and what to do about it."""
    alerts: list[Alert] = []
    recommendations: list[Recommendation] = []
    for rule in RULES:
        finding = rule.check(facts, setup, options)
        if finding is None:
            continue
        alerts.append(
            Alert(
                code=rule.code,
                severity=rule.severity,
                message=finding.message,
                evidence=finding.evidence,
                confidence=finding.confidence,
                source=rule.source,
            )
        )
        if finding.action:
            recommendations.append(
                Recommendation(
                    action=finding.action,
                    reason=finding.reason,
                    because=rule.code,
                    evidence=finding.evidence,
                    confidence=finding.confidence,
                )
            )
    return alerts, recommendations
