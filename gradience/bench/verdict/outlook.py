"""What the policy does at the noise that was seen, and what a better claim would need. Pure."""

from __future__ import annotations

import math
from fractions import Fraction

from gradience.bench.plan.preregister import ALPHA
from gradience.bench.verdict.conditions import MIN_SEEDS
from gradience.bench.verdict.grade import GradeFacts, besides, supported
from gradience.reports.base.graded import Grade, NextGrade, OperatingCharacteristics
from gradience.reports.bench_plan import Policy, allowed_losses
from gradience.statistics import Claim, Pooled, items_needed, pass_probability, seeds_needed
from gradience.statistics.power import DEFAULT_CORRELATION


def characteristics(pooled: Pooled, policy: Policy, planned: int) -> OperatingCharacteristics:
    """Return the chances to pass the policy over `planned` seeds, at the discordance and the spread of these runs.

    A loss of twice the margin takes a discordance of as much at least.
    """
    loss = min(1.0, float(2 * policy.tolerance))

    def chance(delta: float, discordance: float) -> float:
        return pass_probability(
            pooled.items,
            allowed_losses(pooled.items, policy.tolerance),
            discordance,
            delta,
            math.sqrt(pooled.run_variance or 0.0),
            seeds=planned,
            needed=math.ceil(policy.pass_rate * planned),
            floor_allowed=allowed_losses(pooled.items, policy.floor),
        )

    seen = pooled.discordance or 0.0
    return OperatingCharacteristics(
        pass_if_equal=chance(0.0, seen), pass_if_twice_margin=chance(-loss, max(seen, loss))
    )


def next_grade(grade: Grade, facts: GradeFacts, pooled: Pooled | None) -> NextGrade | None:
    """Return what the grade above needs; None above A, and where something is invalid or inferior.

    A is adjusted for the other claims: it gets the share of the level that the least sure of them gets.
    """
    if grade not in ("B", "C") or pooled is None:
        return None
    stands = () if facts.passes else ("it does not pass the policy",)
    if grade == "C" and supported(facts):  # the policy alone stands in the way
        return NextGrade(grade="B", examples=pooled.items, seeds=pooled.runs, obstacles=stands)
    if grade == "C":
        needs = Needs(pooled, facts.margin, "these-runs")
        return NextGrade(grade="B", examples=needs.examples(), seeds=needs.seeds(), obstacles=stands)
    needs = Needs(pooled, facts.margin, "new-run", level=float(ALPHA) / facts.family)
    return NextGrade(
        grade="A",
        examples=needs.examples(),
        seeds=needs.seeds(MIN_SEEDS),
        obstacles=(*stands, *besides(facts)),
    )


class Needs:
    """Examples and seeds that a claim needs, at the noise and the difference that were seen."""

    def __init__(
        self, pooled: Pooled, margin: Fraction, claim: Claim, *, level: float = float(ALPHA)
    ) -> None:
        self.pooled, self.margin, self.claim, self.level = pooled, float(margin), claim, level
        self.delta = min(pooled.delta, 0.0)
        self.discordance = pooled.discordance or 1 / (
            pooled.runs * pooled.items
        )  # as if one pair had differed
        self.spread = math.sqrt(pooled.run_variance or 0.0)
        self.correlation = DEFAULT_CORRELATION
        if pooled.runs > 1:
            self.correlation = min(max((pooled.design_effect - 1) / (pooled.runs - 1), 0.0), 1.0)

    def examples(self) -> int | None:
        """With as many seeds as there are; for a new run at least three."""
        seeds = self.pooled.runs if self.claim == "these-runs" else max(self.pooled.runs, MIN_SEEDS)
        return items_needed(
            self.discordance, self.margin, seeds=seeds, spread=self.spread, claim=self.claim,
            correlation=self.correlation, delta=self.delta, level=self.level,
        )  # fmt: skip

    def seeds(self, fewest: int = 1) -> int | None:
        """With as many examples as there are."""
        if self.delta <= -self.margin:
            return None
        needed = seeds_needed(
            self.pooled.items, self.discordance, self.margin, spread=self.spread, claim=self.claim,
            correlation=self.correlation, delta=self.delta, level=self.level,
        )  # fmt: skip
        return None if needed is None else max(needed, fewest)
