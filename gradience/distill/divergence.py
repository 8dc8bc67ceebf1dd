"""KL of two adapters over rows: means, and the test of a change. Without torch, so that a report can be checked."""

import numpy as np
from numpy.typing import NDArray

from gradience.reports.distill import MeanKl
from gradience.spectra import FloatArray
from gradience.statistics.paired import mean_difference


def mean_kl(sums: FloatArray, tokens: NDArray[np.int64], least: float = 0.0) -> MeanKl:
    """Σ sums / Σ tokens with Student's interval, by the linear approximation of the ratio.

    >>> mean = mean_kl(np.array([0.1, 0.3, 0.2]), np.array([1, 1, 1]))
    >>> round(mean.kl_per_token, 3), round(mean.low, 3), round(mean.high, 3)
    (0.2, 0.0, 0.448)

    sums: of each row over its tokens; differences of two adapters on the same rows as well.
    least: what the value cannot be below; −inf for differences.
    """
    ratio = float(sums.sum() / tokens.sum())
    low, high = mean_difference(ratio + (sums - ratio * tokens) / tokens.mean())
    return MeanKl(kl_per_token=ratio, low=max(low, least), high=high)


def p_closer(before: FloatArray, after: FloatArray, seed: int) -> float:
    """Return the one-sided p-value of "distillation changed nothing" against a lower KL: a paired permutation test.

    A few rows with a large KL make Student's interval of the change wide. Here they count on both sides: on rows of
    distilled adapters it keeps its level of 2.5 %, and finds 99 % of the recoveries of which Student's finds 69 %
    (docs/distill.md).

    >>> p_closer(np.array([0.3, 0.2, 0.4, 9.0, 0.2, 0.5]), np.array([0.1, 0.1, 0.2, 4.0, 0.1, 0.3]), seed=0)
    0.015625

    before, after: KL of each row over its tokens.
    """
    from scipy import stats

    test = stats.permutation_test(
        (after, before),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9999,
        alternative="less",
        random_state=np.random.default_rng([seed, 4]),
    )
    return float(test.pvalue)
