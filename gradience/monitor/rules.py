"""What monitor looks for. One function a rule, all rules in RULES, each with its source.

A rule sees facts and says nothing, or one finding. Thresholds are constants beside their rule; where they
come from is told in docs/monitor.md, and tests/monitor holds one real run where the rule speaks and one
where it must not.
"""

from __future__ import annotations

import math

from gradience.artifacts.monitor import Alert, Recommendation
from gradience.learning_rate import LR_TOLERANCE, THINKING_MACHINES, effective_alpha, rate, reference_lr
from gradience.monitor.facts import Evaluation, RunFacts, Split
from gradience.monitor.rule import (
    CROSS_ENTROPY,
    LOSS_FALLS,
    REWARDS,
    Finding,
    Options,
    Rule,
    evidence,
)
from gradience.monitor.rules_loss import (
    MIN_LOGS,
    divergence,
    gradient_explosion,
    loss_explosion,
    nonfinite,
    plateau,
)
from gradience.monitor.rules_rank import rank_too_large, rank_too_small, untrained_modules
from gradience.monitor.rules_rl import constant_reward, kl_runaway, length_blowup, reward_collapse
from gradience.monitor.setup import RunSetup

ADAPTERS = "122 adapters of strangers and repeated runs (docs/monitor.md)"
OWN = "Gradience (docs/monitor.md)"


# ------------------------------------------------------------------ evaluation


def no_evaluation(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """A run without a single evaluation, of which nobody said that it is evaluated elsewhere."""
    if facts.splits or facts.loss.count < MIN_LOGS or setup.evaluated_by:
        return None
    return Finding(
        "nothing was evaluated during training",
        evidence("logged losses", facts.loss.count, facts.last_step),
        "medium",
        'hold some rows back: eval_dataset=…, eval_strategy="steps"; if you evaluate afterwards, say so:'
        ' GradienceCallback(evaluated_by="…")',
        "without an evaluation nobody can tell learning from memorization",
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
            "after the best evaluation the model memorized its training rows",
        )
    return None


def _training_fell(facts: RunFacts, best: Evaluation, last: Evaluation) -> bool:
    return best.train_loss is not None and last.train_loss is not None and last.train_loss < best.train_loss


def _with_losses(facts: RunFacts) -> list[tuple[str, Split]]:
    return [(name, split) for name, split in facts.splits.items() if split.losses.count]


# ------------------------------------------------------------------ settings against results


def learning_rate(facts: RunFacts, setup: RunSetup, options: Options) -> Finding | None:
    """The peak learning rate is more than ten times off what width and α suggest for LoRA with AdamW.

    The peak is the configured one: a log between two steps of a schedule never shows it.
    """
    top = facts.lr.highest
    peak = max(setup.learning_rate or 0.0, top.high if top else 0.0)
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
        f"the learning rate {rate(peak)} lies {float(f'{by:.2g}'):,.0f} times {side} what α = {setup.alpha:g} suggests",
        evidence("peak learning rate", peak)
        + evidence("reference", reference)
        + evidence("α/r", alpha / setup.r),
        "medium" if setup.hidden_size else "low",
        f"try {rate(reference, 1)}",
        "the best learning rate of LoRA is about ten times that of full fine-tuning and hardly depends on the"
        " rank while α stays the same",
    )


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


PRECHELT = "Prechelt, Early Stopping — But When? (1998)"
ZERO_B = "LoRA's initialisation B = 0 (Hu et al., 2021)"
IEEE = "IEEE 754: NaN propagates through every sum"
GAO = "Gao, Schulman and Hilton, Scaling Laws for Reward Model Overoptimization (2023)"
GRPO = "Shao et al., DeepSeekMath (2024), the advantage of GRPO; Yu et al., DAPO (2025)"
LENGTH = "Yu et al., DAPO (2025); Liu et al., Understanding R1-Zero-Like Training (2025)"

RULES = (
    Rule("run-error", "error", "the run's own `run_end`", run_error),
    Rule("nonfinite", "error", IEEE, nonfinite),
    Rule("divergence", "error", OWN, divergence, LOSS_FALLS),
    Rule("reward-collapse", "error", GAO, reward_collapse, REWARDS),
    Rule("kl-runaway", "warning", GAO, kl_runaway, REWARDS),
    Rule("constant-reward", "warning", GRPO, constant_reward, REWARDS),
    Rule("length-blowup", "warning", LENGTH, length_blowup, REWARDS),
    Rule("loss-explosion", "warning", OWN, loss_explosion, LOSS_FALLS),
    Rule("gradient-explosion", "warning", OWN, gradient_explosion, LOSS_FALLS),
    Rule("overfitting", "warning", PRECHELT, overfitting, LOSS_FALLS),
    Rule(
        "memorization-gap",
        "warning",
        "the public predecessor's threshold of 1.5",
        memorization_gap,
        CROSS_ENTROPY,
    ),
    Rule("learning-rate", "warning", THINKING_MACHINES, learning_rate, CROSS_ENTROPY),
    Rule("no-evaluation", "warning", OWN, no_evaluation, LOSS_FALLS),
    Rule("untrained-modules", "warning", ZERO_B, untrained_modules),
    Rule("rank-too-small", "warning", ADAPTERS, rank_too_small),
    Rule("rank-too-large", "info", ADAPTERS, rank_too_large),
    Rule("plateau", "info", OWN, plateau, LOSS_FALLS),
)


def judge(facts: RunFacts, setup: RunSetup, options: Options) -> tuple[list[Alert], list[Recommendation]]:
    """What every rule says about one run, errors first, and what to do about it."""
    alerts: list[Alert] = []
    recommendations: list[Recommendation] = []
    for rule in RULES:
        finding = rule.check(facts, setup, options) if setup.method in rule.methods else None
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
