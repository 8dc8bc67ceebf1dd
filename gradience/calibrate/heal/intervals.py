"""KL per scored token with its interval over rows: a ratio of sums, whose rows have unequal numbers of tokens. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradience.artifacts.heal import MeanKl
from gradience.spectra import FloatArray
from gradience.statistics.paired import mean_difference


def mean_kl(sums: FloatArray, tokens: NDArray[np.int64], least: float = 0.0) -> MeanKl:
    """Σ sums / Σ tokens with Student's interval, by the linear approximation of the ratio.

    >>> mean = mean_kl(np.array([0.1, 0.3, 0.2]), np.array([1, 1, 1]))
    >>> round(mean.kl, 3), round(mean.low, 3), round(mean.high, 3)
    (0.2, 0.0, 0.448)

    sums: of each row over its tokens; differences of two adapters on the same rows as well.
    least: what the value cannot be below; −inf for differences.
    """
    ratio = float(sums.sum() / tokens.sum())
    low, high = mean_difference(ratio + (sums - ratio * tokens) / tokens.mean())
    return MeanKl(kl=ratio, low=max(low, least), high=high)
