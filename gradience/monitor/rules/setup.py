"""How the run was set up, and how it ended."""

from __future__ import annotations

from gradience.learning_rate import (
    LR_TOLERANCE,
    THINKING_MACHINES,
    effective_alpha,
    is_adam_like,
    rate,
    reference_lr,
)
from gradience.monitor.run import Observation, Observations, Run, evidence, need_method
from gradience.rules import rule


@rule("learning-rate", "warning", THINKING_MACHINES)
def learning_rate(run: Run) -> Observations:
    """The peak learning rate is more than ten times off what width and α suggest for LoRA with AdamW.

    The peak is the configured one: a log between two steps of a schedule never shows it.
    """
    setup, top = run.setup, need_method(run, "supervised").lr.highest
    peak = max(setup.learning_rate or 0.0, top.high if top else 0.0)
    if not peak or not setup.r or not setup.alpha or not is_adam_like(setup.optimizer):
        return
    alpha = effective_alpha(setup.r, setup.alpha, rslora=setup.rslora)
    reference = reference_lr(setup.hidden_size, alpha, setup.model)
    ratio = peak / reference
    if 1 / LR_TOLERANCE <= ratio <= LR_TOLERANCE:
        return
    side = "above" if ratio > 1 else "below"
    by = ratio if ratio > 1 else 1 / ratio
    yield Observation(
        f"the learning rate {rate(peak)} is {float(f'{by:.2g}'):,.0f} times {side} what α = {setup.alpha:g} suggests",
        evidence("peak learning rate", peak)
        + evidence("reference", reference)
        + evidence("α/r", alpha / setup.r),
        "medium" if setup.hidden_size else "low",
        f"try {rate(reference, 1)}",
        "the best learning rate of LoRA is about ten times that of full fine-tuning and hardly depends on the"
        " rank while α stays the same",
    )


@rule("run-error", "error", "the run's own `run_end`")
def run_error(run: Run) -> Observations:
    """The run ended with an error."""
    facts = run.facts
    if facts.end is None or facts.end.text("status") != "error":
        return
    reason = facts.end.text("reason") or "no reason recorded"
    yield Observation(
        f"the run ended with an error: {reason}",
        evidence("last step", facts.last_step),
        "high",
        "see the training's own output for the traceback",
        "run.jsonl records the type of an exception, never its text",
    )
