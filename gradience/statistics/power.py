"""How many examples and seeds a claim needs, and the smallest margin that a budget can show. Planning formulas.

V = pd·(1 + (S − 1)·ρ)/(S·n) + τ²/S is the variance of the pooled difference: pd the discordance, S seeds, n examples, ρ
the correlation of two seeds' differences on one example, τ the spread between runs.
"""

from __future__ import annotations

import math

from scipy import stats

from gradience.statistics.pooled import Claim

DEFAULT_CORRELATION = 0.2


def power(
    n: int, discordance: float, margin: float, *, seeds: int = 1, spread: float = 0.0, claim: Claim = "these-runs",
    correlation: float = DEFAULT_CORRELATION, delta: float = 0.0, level: float = 0.05,
) -> float:  # fmt: skip
    """The chance to show non-inferiority at `margin` if the true difference is `delta`.

    >>> round(power(739, 0.16, 0.025, seeds=3), 2)
    0.8
    """
    variance = _variance(n, discordance, seeds, spread, claim, correlation)
    distance = (delta + margin) / math.sqrt(variance)
    if claim == "these-runs":
        return float(stats.norm.cdf(distance - stats.norm.isf(level)))
    distribution = stats.t(seeds - 1)
    return float(distribution.cdf(distance - distribution.isf(level)))


def items_needed(
    discordance: float, margin: float, *, seeds: int = 1, spread: float = 0.0, claim: Claim = "these-runs",
    correlation: float = DEFAULT_CORRELATION, delta: float = 0.0, level: float = 0.05, wanted: float = 0.8,
) -> int | None:  # fmt: skip
    """The fewest examples that give the power `wanted`; None where no number does, since runs differ too much.

    >>> items_needed(0.16, 0.025, seeds=3), items_needed(0.16, 0.025, seeds=3, spread=0.005, claim="new-run")
    (739, 2401)
    """
    allowed = ((delta + margin) / _quantiles(claim, seeds, level, wanted)) ** 2
    if delta + margin <= 0:
        return None
    if claim == "new-run":
        allowed -= spread**2 / seeds
    if allowed <= 0:
        return None
    return math.ceil(discordance * (1 + (seeds - 1) * correlation) / seeds / allowed - 1e-9)


def seeds_needed(
    n: int, discordance: float, margin: float, *, spread: float = 0.0, claim: Claim = "new-run",
    correlation: float = DEFAULT_CORRELATION, level: float = 0.05, wanted: float = 0.8, most: int = 100,
) -> int | None:  # fmt: skip
    """The fewest seeds that give the power `wanted` on `n` examples; None where `most` do not.

    >>> seeds_needed(1319, 0.16, 0.025, spread=0.005)
    4
    """
    for seeds in range(2 if claim == "new-run" else 1, most + 1):
        needed = items_needed(
            discordance, margin, seeds=seeds, spread=spread, claim=claim, correlation=correlation,
            level=level, wanted=wanted,
        )  # fmt: skip
        if needed is not None and needed <= n:
            return seeds
    return None


def smallest_margin(
    n: int, discordance: float, *, seeds: int = 1, spread: float = 0.0, claim: Claim = "these-runs",
    correlation: float = DEFAULT_CORRELATION, level: float = 0.05, wanted: float = 0.8,
) -> float:  # fmt: skip
    """The margin that an equal candidate shows with the power `wanted`.

    >>> round(smallest_margin(200, 0.16, seeds=3), 3), round(smallest_margin(1319, 0.16, seeds=3), 3)
    (0.048, 0.019)
    """
    variance = _variance(n, discordance, seeds, spread, claim, correlation)
    return _quantiles(claim, seeds, level, wanted) * math.sqrt(variance)


def _variance(
    n: int, discordance: float, seeds: int, spread: float, claim: Claim, correlation: float
) -> float:
    sampling = discordance * (1 + (seeds - 1) * correlation) / (seeds * n)
    return sampling + (spread**2 / seeds if claim == "new-run" else 0.0)


def _quantiles(claim: Claim, seeds: int, level: float, wanted: float) -> float:
    """How many standard errors the margin must span. For a new run Student's with S − 1: conservative."""
    if claim == "these-runs":
        return float(stats.norm.isf(level) + stats.norm.ppf(wanted))
    if seeds < 2:
        raise ValueError("a claim about a new run needs two seeds or more")
    distribution = stats.t(seeds - 1)
    return float(distribution.isf(level) + distribution.ppf(wanted))
