"""One reference, one candidate, the same examples: intervals, tests, the grade of a pair; several claims together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike

from gradience.statistics.table import PairedTable

PairGrade = Literal["B", "C", "D"]
"""Grade of one run: a claim about another training run (A) would need several runs."""
LEVEL = 0.05
"""One-sided error of a claim."""
_EDGE = 1e-12
"""Differences of ±1 exactly have a variance of 0: bounds are looked for just inside."""


class Interval(NamedTuple):
    """Two bounds on a difference, as shares: −0.025 is −2.5 points."""

    low: float
    high: float


def tango(table: PairedTable, confidence: float = 0.95) -> Interval:
    """Tango's score interval of the difference; valid even if counts are small or 0.

    >>> [round(bound, 3) for bound in tango(PairedTable(n11=1, n10=7, n01=1, n00=12))]  # Fagerland et al. 2014
    [-0.517, -0.026]

    confidence: of the two-sided interval; its lower bound by itself is one-sided at (1 + confidence) / 2.
    Source: T. Tango, Statistics in Medicine 17 (1998) 891-908. Raises ValueError for a table without examples.
    """
    if table.n == 0:
        raise ValueError("an interval needs at least one example")
    quantile = float(scipy.stats.norm.isf((1 - confidence) / 2))
    return invert(lambda null: score(table.n01, table.n10, table.n, null), float(table.exact_delta), quantile)


def tango_p_value(table: PairedTable, margin: float) -> float:
    """The one-sided p-value of "the candidate loses `margin` or more": small if it does not.

    >>> round(tango_p_value(PairedTable(n11=150, n10=12, n01=8, n00=30), margin=0.025), 3)
    0.412
    """
    return float(scipy.stats.norm.sf(score(table.n01, table.n10, table.n, -margin)))


def mcnemar(table: PairedTable) -> float:
    """The exact two-sided p-value of "both are equally good". A large p-value does not prove equality.

    >>> round(mcnemar(PairedTable(n11=150, n10=12, n01=8, n00=30)), 3)
    0.503

    Source: Q. McNemar, Psychometrika 12 (1947); exact as a sign test on the discordant pairs.
    """
    discordant = table.n10 + table.n01
    return float(scipy.stats.binomtest(table.n01, discordant).pvalue) if discordant else 1.0


def mean_difference(differences: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's interval of the mean of paired differences of scores other than 0/1: NLL, KL, ROUGE, a reward.

    >>> [round(bound, 3) for bound in mean_difference([0.1, -0.2, 0.0, 0.3, -0.1, 0.2])]
    [-0.146, 0.246]

    differences: (n,), candidate − reference. Raises ValueError for fewer than two, or any that is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError("an interval needs two or more finite differences in one row")
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    reach = float(scipy.stats.t.isf((1 - confidence) / 2, len(values) - 1)) * error
    return Interval(mean - reach, mean + reach)


def mean_p_value(differences: ArrayLike, margin: float) -> float:
    """The one-sided p-value of "the candidate loses `margin` or more" of Student's test on such differences.

    >>> round(mean_p_value([0.1, -0.2, 0.0, 0.3, -0.1, 0.2], margin=0.1), 3)
    0.053

    differences: as for `mean_difference`. Differences that are all equal have no error: 0, 1, or 0.5 at the margin.
    """
    values = np.asarray(differences, dtype=np.float64)
    variance = float(values.var(ddof=1)) / len(values)
    return float(scipy.stats.t.sf(in_errors(float(values.mean()) + margin, variance), len(values) - 1))


# ---------------------------------------------------------------- the score


def score(gained: int, lost: int, n: int, null: float) -> float:
    """Tango's statistic of Δ = `null`: about N(0, 1) if that is true, large if Δ is above it."""
    return in_errors((gained - lost) / n - null, score_variance(gained, lost, n, null))


def score_variance(gained: float, lost: float, n: float, null: float) -> float:
    """The variance of the estimated difference if it were `null`, the discordance fitted by maximum likelihood.

    Tango's closed form of the constrained estimate of P(only the reference correct).
    """
    linear = -gained - lost + (2 * n - gained + lost) * null
    constant = -lost * null * (1 - null)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    only_reference = (root - linear) / (4 * n)
    return max(2 * only_reference + null * (1 - null), 0.0) / n


def in_errors(distance: float, variance: float) -> float:
    """Return a distance in standard errors; ±∞ if the error is 0."""
    if distance == 0:
        return 0.0
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def invert(statistic: Callable[[float], float], center: float, quantile: float) -> Interval:
    """The nulls that `statistic`, which falls as its null rises, does not reject at ±`quantile`."""
    low, high = -1 + _EDGE, 1 - _EDGE
    root, center = scipy.optimize.brentq, min(max(center, low), high)
    return Interval(
        root(lambda null: statistic(null) - quantile, low, center) if statistic(low) > quantile else -1.0,
        root(lambda null: statistic(null) + quantile, center, high) if statistic(high) < -quantile else 1.0,
    )


def pair_grade(low: float, high: float, margin: Fraction | float, p_value: float = 0.0) -> PairGrade:
    """Return B if a loss of the margin is excluded, D if a loss of more is shown, else C.

    >>> pair_grade(-0.01, 0.01, Fraction("0.025"), 0.001), pair_grade(-0.2, -0.1, Fraction("0.025"), 1.0)
    ('B', 'D')
    >>> pair_grade(-0.025, 0.01, Fraction("0.025"), 0.05)
    'C'

    low, high: the one-sided 95 % bounds of Δ. margin: positive. p_value: of "it loses the margin or more", adjusted
    if there are several candidates.
    """
    allowed = _exact(margin)
    if _exact(high) < -allowed:
        return "D"
    return "B" if _exact(low) > -allowed and p_value <= LEVEL else "C"


def _exact(value: Fraction | float) -> Fraction:
    """A number as a file has it: the binary number of −0.025 is a little less."""
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: each at most 0.05 keeps the chance of any false claim at 5 %.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def fixed_sequence(p_values: Sequence[float], level: float = 0.05) -> int:
    """Return the number of leading claims that are shown if each is tested at the full level until one fails.

    >>> fixed_sequence([0.001, 0.02, 0.3, 0.01])  # the fourth is not looked at
    2

    The order must be fixed before the answers are known. Source: W. Maurer et al., Biometrie in der
    chemisch-pharmazeutischen Industrie 6 (1995).
    """
    for index, value in enumerate(p_values):
        if not value <= level:
            return index
    return len(p_values)
