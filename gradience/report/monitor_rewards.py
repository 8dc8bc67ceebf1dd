"""The part of a run's report that reinforcement learning has instead of a loss."""

from __future__ import annotations

from gradience.artifacts.monitor import Curve, Rewards
from gradience.report.charts import area, sparkline
from gradience.report.lines import Cell, Line, Span, columns
from gradience.report.numbers import plain, sig

SPARK = 32
ROWS = (
    ("KL, nats/token", "kl"),
    ("KL, nats/completion", "sequence_kl"),
    ("entropy", "entropy"),
    ("length, tokens", "length"),
    ("cut off at the limit", "clipped"),
    ("reward, std", "reward_std"),
    ("groups, equal rewards", "zero_std"),
)


def rewards_lines(rewards: Rewards, loss: Curve, *, width: int, verbose: bool) -> list[Line]:
    """Reward as a chart, the rest as a line each; the loss only on request, because it is no measure of progress."""
    reward = rewards.reward
    lines: list[Line] = [[], [Span("Reward", "heading"), Span(f"  {_reward_words(reward)}", "dim")]]
    if reward.points:
        means = [point.mean for point in reward.points]
        lines += area(means, reward.points[0].step, reward.points[-1].step, width=width)
    rows: list[list[Cell]] = []
    for label, name in (*ROWS, *((("loss (not progress)", ""),) if verbose else ())):
        curve = getattr(rewards, name) if name else loss
        if curve.points:
            spark = sparkline([point.mean for point in curve.points], SPARK)
            rows.append([label, Span(spark, "info"), f"{sig(curve.first)} → {sig(curve.last)}"])
    return lines + columns(rows, "<<<")


def _reward_words(reward: Curve) -> str:
    if not reward.count:
        return "none logged"
    return (
        f"{sig(reward.first)} → {sig(reward.last)}, highest {plain(reward.high)} at step {reward.high_step}"
    )
