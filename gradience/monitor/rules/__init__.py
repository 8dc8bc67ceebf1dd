"""What monitor looks for: one function for each rule in the files of this folder, and one line here.

Thresholds are constants beside their rule; where they come from is told in docs/reference/monitor_rules.md, and
tests/monitor holds one real run where the rule speaks and one where it must not.
"""

from __future__ import annotations

from gradience.monitor.rules import evaluation, loss, rank, rewards, setup
from gradience.monitor.run import Observation, Run
from gradience.rules import Rule

__all__ = ["RULES"]

RULES: tuple[Rule[Run, Observation], ...] = (
    setup.run_error,
    loss.nonfinite,
    loss.divergence,
    rewards.reward_collapse,
    rewards.kl_runaway,
    rewards.constant_reward,
    rewards.length_blowup,
    loss.loss_explosion,
    loss.gradient_explosion,
    evaluation.overfitting,
    evaluation.memorization_gap,
    setup.learning_rate,
    evaluation.no_evaluation,
    rank.untrained_modules,
    rank.rank_too_small,
    rank.rank_too_large,
    loss.plateau,
    loss.still_improving,
)
"""In the order of the report: errors first."""
