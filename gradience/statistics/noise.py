"""What differs although nothing was changed: runs of the same recipe against each other; the bootstrap as a check."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """How far runs of one recipe lie from each other."""

    comparisons: int
    discordance: float
    """Mean share of examples on which exactly one of two runs is correct."""
    delta_sd: float
    """Root mean square of the difference in accuracy of two runs."""
    largest_delta: float


def noise_floor(correct: ArrayLike) -> NoiseFloor:
    """Compare every two of the same recipe's runs on the same examples.

    >>> floor = noise_floor([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]])
    >>> floor.comparisons, round(floor.discordance, 3), round(floor.largest_delta, 3)
    (3, 0.333, 0.5)

    correct: (runs, items), 0 or 1. Raises ValueError for fewer than two runs or no items.
    """
    answers = np.asarray(correct)
    if answers.ndim != 2 or answers.shape[0] < 2 or answers.shape[1] < 1:
        raise ValueError("a noise floor needs two runs or more on the same items")
    answers = answers.astype(bool)
    pairs = [
        answers[first].astype(int) - answers[second] for first, second in combinations(range(len(answers)), 2)
    ]
    deltas = [float(pair.mean()) for pair in pairs]
    return NoiseFloor(
        comparisons=len(pairs),
        discordance=float(np.mean([np.abs(pair).mean() for pair in pairs])),
        delta_sd=math.sqrt(sum(delta * delta for delta in deltas) / len(deltas)),
        largest_delta=max(abs(delta) for delta in deltas),
    )


def bootstrap_bound(
    differences: ArrayLike, confidence: float = 0.95, *, resamples: int = 10_000, seed: int = 0
) -> float:
    """The one-sided lower bound of the mean difference by resampling items: a cross-check for "these runs".

    >>> import numpy as np
    >>> round(bootstrap_bound(np.repeat([[-1, 0, 1]], [5, 190, 5], axis=1), resamples=2000), 3)
    -0.025

    differences: (runs, items); the runs of an item stay together. The percentile bootstrap (B. Efron, 1979).
    """
    of_item = np.asarray(differences, dtype=np.float64).mean(axis=0)
    values, counts = np.unique(
        of_item, return_counts=True
    )  # few values: a multinomial is the same resampling
    draws = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return float(np.quantile(draws @ values / counts.sum(), 1 - confidence))
