"""What the safety policy does: the chance that a variant with a known true difference passes it. Exact counts."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def seed_pass_probability(
    n: int, allowed: int, discordance: float, delta: float, spread: float = 0.0
) -> float:
    """The chance that one seed loses at most `allowed` of `n` examples, net.

    >>> round(seed_pass_probability(200, 5, discordance=0.16, delta=0.0), 3)
    0.835

    discordance: P(exactly one correct). delta: true candidate − reference. spread: the standard deviation of a run's
    own true difference around it (by Gauss–Hermite quadrature). A run's difference is never beyond ± discordance.
    """
    if spread == 0:
        return _passes(n, allowed, discordance, delta)
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    shares = weights / weights.sum()
    return float(
        sum(
            share * _passes(n, allowed, discordance, round(delta + spread * node, 9))
            for share, node in zip(shares, nodes, strict=True)
        )
    )


def pass_probability(
    n: int, allowed: int, discordance: float, delta: float, spread: float = 0.0, *, seeds: int = 3,
    needed: int | None = None, floor_allowed: int | None = None,
) -> float:  # fmt: skip
    """The chance that a variant passes the policy: `needed` of `seeds` seeds, and none below the floor.

    >>> round(pass_probability(200, 5, discordance=0.16, delta=0.0), 2)  # an equal variant, three seeds
    0.58

    needed: all seeds by default. floor_allowed: net losses that no seed may exceed; as many as `allowed` by default.
    Runs count as independent, though they share their examples: this gives the chance slightly too low.
    """
    needed = seeds if needed is None else needed
    floor_allowed = allowed if floor_allowed is None else floor_allowed
    passes = seed_pass_probability(n, allowed, discordance, delta, spread)
    holds = seed_pass_probability(n, max(floor_allowed, allowed), discordance, delta, spread)
    if floor_allowed < allowed:  # a seed below the floor fails the variant, whatever its tolerance
        passes = holds = seed_pass_probability(n, floor_allowed, discordance, delta, spread)
    between = max(holds - passes, 0.0)  # kept the floor, missed the tolerance
    return sum(
        math.comb(seeds, good) * passes**good * between ** (seeds - good) for good in range(needed, seeds + 1)
    )


@lru_cache(maxsize=4096)
def _passes(n: int, allowed: int, discordance: float, delta: float) -> float:
    return min(float(_net(n, discordance, delta)[: allowed + n + 1].sum()), 1.0)


def _net(n: int, discordance: float, delta: float) -> NDArray[np.float64]:
    """The distribution of lost − gained over −n … n: the discordant pairs are binomial, and so is their split."""
    delta = min(max(delta, -discordance), discordance)
    lost, gained = (discordance - delta) / 2, (discordance + delta) / 2
    size = 2 * n + 1
    step = np.zeros(size)
    step[[0, 1, -1]] = 1 - lost - gained, lost, gained  # one example: net 0, +1, −1 (around the circle)
    spectrum = np.fft.rfft(step) ** n
    around = np.fft.irfft(spectrum, size)
    return np.clip(np.roll(around, n), 0.0, None)
