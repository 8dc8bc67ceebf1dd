"""What the evaluations say, and that there are none."""

from __future__ import annotations

import math

from gradience.monitor.facts import RunFacts, Split, SplitEvaluation
from gradience.monitor.rules.loss import OWN
from gradience.monitor.run import (
    MIN_LOGS,
    Observation,
    Observations,
    Run,
    evidence,
    need_falling_loss,
    need_method,
)
from gradience.rules import rule

PRECHELT = "Prechelt, Early Stopping — But When? (1998)"


@rule("no-evaluation", "warning", OWN)
def no_evaluation(run: Run) -> Observations:
    """A run without a single evaluation, of which nobody said that it is evaluated elsewhere."""
    facts = need_falling_loss(run)
    if facts.splits or facts.loss.count < MIN_LOGS or run.setup.evaluated_by:
        return
    yield Observation(
        "nothing was evaluated during training",
        evidence("logged losses", facts.loss.count, facts.last_step),
        "medium",
        'hold some rows back: eval_dataset=…, eval_strategy="steps"; if you evaluate afterwards, say so:'
        ' GradienceCallback(evaluated_by="…")',
        "without an evaluation nobody can tell learning from memorization",
    )


@rule("memorization-gap", "warning", "the public predecessor's threshold of 1.5")
def memorization_gap(run: Run) -> Observations:
    """The last evaluation is far above the training loss: exp(difference) reaches the threshold."""
    facts = need_method(run, "supervised")
    for name, split in _with_losses(facts):
        last = split.last
        if last is None or last.loss is None or last.train_loss is None:
            continue
        if not (math.isfinite(last.loss) and math.isfinite(last.train_loss)):
            continue
        ratio = math.exp(min(last.loss - last.train_loss, 700.0))
        if ratio >= run.options.gap_threshold:
            yield Observation(
                f"loss on {name} is {last.loss:.3g}, in training {last.train_loss:.3g}"
                f" (ratio of perplexities {ratio:.3g})",
                evidence(f"loss on {name}", last.loss, last.step)
                + evidence("training loss", last.train_loss, last.step)
                + evidence("threshold", run.options.gap_threshold),
                "high" if split.count > 1 else "medium",
                "train for fewer epochs, or with more or more varied rows",
                "the model knows its training rows better than the task",
            )
            return


RISEN = 0.05
MIN_EVALUATIONS = 3


@rule("overfitting", "warning", PRECHELT)
def overfitting(run: Run) -> Observations:
    """The evaluation loss has risen by 5 % above its best while the training loss went on falling."""
    facts = need_falling_loss(run)
    for name, split in _with_losses(facts):
        best, last = split.best, split.last
        if best is None or last is None or best.loss is None or last.loss is None:
            continue
        if split.count < MIN_EVALUATIONS or not last.loss > (1 + RISEN) * best.loss or best.step == last.step:
            continue
        if not _training_fell(best, last):
            continue
        yield Observation(
            f"loss on {name} was best at step {best.step} ({best.loss:.3g}) and has risen to {last.loss:.3g}",
            evidence("best", best.loss, best.step) + evidence("last", last.loss, last.step),
            "high" if last.loss > (1 + 2 * RISEN) * best.loss else "medium",
            f"use the checkpoint of step {best.step}; set load_best_model_at_end and early stopping",
            "after the best evaluation the model memorized its training rows",
        )
        return


def _training_fell(best: SplitEvaluation, last: SplitEvaluation) -> bool:
    return best.train_loss is not None and last.train_loss is not None and last.train_loss < best.train_loss


def _with_losses(facts: RunFacts) -> list[tuple[str, Split]]:
    return [(name, split) for name, split in facts.splits.items() if split.losses.count]
