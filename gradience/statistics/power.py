"""How many examples and seeds a claim needs, and the smallest margin that a budget can show: for planning.

V = pd·(1 + (S − 1)·ρ)/(S·n) + τ²/S is the variance of the pooled difference: pd the discordance, S seeds, n examples, ρ
the correlation of two seeds' differences on one example, τ the spread between runs. "These runs" has a closed form. For
"a new run" τ is not known but estimated from S seeds, by the runs' spread minus what the examples explain, and with it
the degrees of freedom: the power is the mean over what may be estimated.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.optimize import brentq

from gradience.statistics.pooled import Claim

DEFAULT_CORRELATION = 0.2
MOST_EXAMPLES = 10**7
"""More are not looked for."""
_POINTS = 200
"""Equally probable spreads of S runs, over which the mean is taken."""


def power(
    n: int, discordance: float, margin: float, *, seeds: int = 1, spread: float = 0.0, claim: Claim = "these-runs",
    correlation: float = DEFAULT_CORRELATION, delta: float = 0.0, level: float = 0.05,
) -> float:  # fmt: skip
    """The chance to show non-inferiority at `margin` if the true difference is `delta`.

    >>> round(power(739, 0.16, 0.025, seeds=3), 2)
    0.8
    >>> round(power(739, 0.16, 0.025, seeds=3, spread=0.01, claim="new-run"), 2)
    0.63

    Raises ValueError for "new-run" with one seed.
    """
    sampling = discordance * (1 + (seeds - 1) * correlation) / (seeds * n)
    if claim == "these-runs":
        return float(special.ndtr((delta + margin) / math.sqrt(sampling) + special.ndtri(level)))
    of_one_run = discordance * (1 - correlation) / n  # what the examples explain of the runs' spread
    estimated = np.maximum(0.0, (spread**2 + of_one_run) * _spreads(seeds) - of_one_run) / seeds
    freedom = (sampling + estimated) ** 2 / (sampling**2 / max(n - 1, 1) + estimated**2 / (seeds - 1))
    errors = -special.stdtrit(freedom, level) * np.sqrt(sampling + estimated)
    return float(special.ndtr((delta + margin - errors) / math.sqrt(sampling + spread**2 / seeds)).mean())


def items_needed(
    discordance: float, margin: float, *, seeds: int = 1, spread: float = 0.0, claim: Claim = "these-runs",
    correlation: float = DEFAULT_CORRELATION, delta: float = 0.0, level: float = 0.05, wanted: float = 0.8,
) -> int | None:  # fmt: skip
    """The fewest examples that give the power `wanted`; None where no number does, since runs differ too much.

    >>> items_needed(0.16, 0.025, seeds=3), items_needed(0.16, 0.025, seeds=3, spread=0.005, claim="new-run")
    (739, 994)
    """
    if delta + margin <= 0:
        return None
    if claim == "these-runs":
        quantiles = special.ndtri(wanted) - special.ndtri(level)
        design = (1 + (seeds - 1) * correlation) / seeds
        return math.ceil(discordance * design * (quantiles / (delta + margin)) ** 2 - 1e-9)

    def suffices(n: int) -> bool:
        reached = power(
            n, discordance, margin, seeds=seeds, spread=spread, claim=claim, correlation=correlation,
            delta=delta, level=level,
        )  # fmt: skip
        return reached >= wanted

    too_few, enough = 1, MOST_EXAMPLES
    if not suffices(enough):
        return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if suffices(middle) else (middle, enough)
    return enough


def seeds_needed(
    n: int, discordance: float, margin: float, *, spread: float = 0.0, claim: Claim = "new-run",
    correlation: float = DEFAULT_CORRELATION, level: float = 0.05, wanted: float = 0.8, most: int = 100,
) -> int | None:  # fmt: skip
    """The fewest seeds that give the power `wanted` on `n` examples; None where `most` do not.

    >>> seeds_needed(739, 0.16, 0.025, claim="these-runs"), seeds_needed(739, 0.16, 0.025, spread=0.01)
    (3, 6)
    """
    for seeds in range(2 if claim == "new-run" else 1, most + 1):
        reached = power(
            n, discordance, margin, seeds=seeds, spread=spread, claim=claim, correlation=correlation, level=level
        )  # fmt: skip
        if reached >= wanted:
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

    def missing(margin: float) -> float:
        reached = power(
            n, discordance, margin, seeds=seeds, spread=spread, claim=claim, correlation=correlation, level=level
        )  # fmt: skip
        return reached - wanted

    beyond = 1.0
    while missing(beyond) < 0:  # a spread of whole points, of two runs
        beyond *= 2
    return float(brentq(missing, 0.0, beyond, xtol=1e-9))


@lru_cache(maxsize=128)
def _spreads(seeds: int) -> NDArray[np.float64]:
    """The variance of `seeds` runs against the true one, at equally probable points: χ²/(S − 1)."""
    if seeds < 2:
        raise ValueError("a claim about a new run needs two seeds or more")
    shares = (np.arange(_POINTS) + 0.5) / _POINTS
    spreads: NDArray[np.float64] = 2 * special.gammaincinv((seeds - 1) / 2, shares) / (seeds - 1)
    return spreads
