"""What check looks for: one function for each rule in the files of this folder, and one line here."""

from __future__ import annotations

from gradience.check.context import Context, Problem
from gradience.check.rules import numbers, refusals, serving, training
from gradience.rules import Rule

__all__ = ["RULES"]

RULES: tuple[Rule[Context, Problem], ...] = (
    refusals.unreadable,
    refusals.impossible_numbers,
    refusals.no_targets,
    refusals.no_adapter,
    refusals.layers_with_regex,
    refusals.pattern_without_layers,
    refusals.initialisation,
    refusals.dora,
    refusals.lora_bias,
    refusals.removed_arguments,
    refusals.best_model,
    refusals.task_type,
    serving.rank,
    serving.features,
    training.attention_only,
    numbers.learning_rate,
    numbers.rl_learning_rate,
    numbers.scale,
    numbers.rslora_at_high_rank,
    numbers.pattern_scale,
    numbers.capacity,
    numbers.rank_for_rl,
    numbers.large_batch,
    training.many_epochs,
    training.no_evaluation,
    training.prompt_loss,
    training.precision,
    training.quantised_base,
)
"""In the order of the report."""
