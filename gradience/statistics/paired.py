"""One reference, one candidate, the same examples: intervals, tests, the grade of a pair; several claims together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import binom

if TYPE_CHECKING:
    from gradience.statistics.table import PairedTable

PairGrade = Literal["B", "C", "D"]
"""Grade of one run: a claim about another training run (A) would need several runs."""
LEVEL = 0.05
"""One-sided error of a claim."""
FEWEST_GROUPS = 1000
"""Independent groups of examples below which scores other than 0/1 have no grade: their tails are not known."""
RARE = 0.01
"""Share of heavy losses, in scores other than 0/1, that a sample must be likely to contain."""
_BEYOND = 9.0
"""Standard deviations of the number of discordant examples that are left out."""
_EDGE = 1e-12
"""Differences of ±1 exactly have a variance of 0: bounds are looked for just inside."""


class Interval(NamedTuple):
    """Two bounds on a difference, as shares: −0.025 is −2.5 points."""

    low: float
    high: float


def tango(table: PairedTable, confidence: float = 0.95) -> Interval:
    """Tango's score interval of the difference; valid even if counts are small or 0.

    >>> from gradience.statistics.table import PairedTable
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

    >>> from gradience.statistics.table import PairedTable
    >>> round(tango_p_value(PairedTable(n11=150, n10=12, n01=8, n00=30), margin=0.025), 3)
    0.412
    """
    return float(scipy.stats.norm.sf(score(table.n01, table.n10, table.n, -margin)))


def mcnemar(table: PairedTable) -> float:
    """The exact two-sided p-value of "both are equally good". A large p-value does not prove equality.

    >>> from gradience.statistics.table import PairedTable
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


# ---------------------------------------------------------------- the score


def score(gained: int, lost: int, n: int, null: float) -> float:
    """Tango's statistic of Δ = `null`: about N(0, 1) if that is true, large if Δ is above it."""
    return in_errors((gained - lost) / n - null, score_variance(gained, lost, n, null))


def score_variance(gained: float, lost: float, n: float, null: float) -> float:
    """The variance of the estimated difference if it were `null`, the discordance fitted by maximum likelihood."""
    only_reference, only_candidate = constrained(gained, lost, n, null)
    return max(only_reference + only_candidate - null * null, 0.0) / n


def constrained(gained: float, lost: float, n: float, null: float) -> tuple[float, float]:
    """Return P(only the reference correct) and P(only the candidate correct), fitted for a difference of `null`.

    Tango's closed form of the estimate by maximum likelihood.
    """
    linear = -gained - lost + (2 * n - gained + lost) * null
    constant = -lost * null * (1 - null)
    root = math.sqrt(max(linear * linear - 8 * n * constant, 0.0))
    only_reference = (root - linear) / (4 * n)
    return max(only_reference, 0.0), max(only_reference + null, 0.0)


def net_loss_tail(net: float, n: int, lost: float, gained: float, *, at_least: bool = False) -> float:
    """The exact chance of at most (or at least) `net` lost minus gained examples of `n`.

    >>> round(net_loss_tail(0, 119, 0.025, 0.0), 4)  # 0.975 to the power of 119
    0.0492

    lost, gained: P(only the reference correct), P(only the candidate correct). Chances below 1e-15 are left out.
    """
    share = min(lost + gained, 1.0)
    if share <= 0:
        return float(net <= 0 if at_least else net >= 0)
    reach = _BEYOND * math.sqrt(n * share) + _BEYOND**2
    discordant = np.arange(max(0, math.floor(n * share - reach)), min(n, math.ceil(n * share + reach)) + 1)
    # lost − gained ≥ net of k discordant pairs means that at most (k − net)/2 are gained.
    p_losing, bound = (gained, -net) if at_least else (lost, net)
    most = np.floor((discordant + bound) / 2)
    tails = scipy.special.bdtr(np.clip(most, 0, discordant), discordant, min(p_losing / share, 1.0))
    logs = scipy.special.xlogy(discordant, share) + scipy.special.xlog1py(n - discordant, -share)
    logs -= scipy.special.gammaln(discordant + 1) + scipy.special.gammaln(n - discordant + 1)
    logs += scipy.special.gammaln(n + 1)
    return min(float(np.where(most < 0, 0.0, np.exp(logs)) @ tails), 1.0)


def in_errors(distance: float, variance: float) -> float:
    """Return a distance in standard errors; ±∞ if the error is 0."""
    if distance == 0:
        return 0.0
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def invert(statistic: Callable[[float], float], center: float, quantile: float) -> Interval:
    """The nulls that `statistic`, which falls as its null rises, does not reject at ±`quantile`."""
    low, high = -1 + _EDGE, 1 - _EDGE
    center = min(max(center, low), high)

    root = scipy.optimize.brentq

    def inside(null: float) -> float:
        return 0.0 if null == center else statistic(null)

    return Interval(
        root(lambda null: inside(null) - quantile, low, center) if inside(low) > quantile else -1.0,
        root(lambda null: inside(null) + quantile, center, high) if inside(high) < -quantile else 1.0,
    )


def pair_grade(
    low: float, high: float, margin: Fraction | float, p_value: float = 0.0, *, groups: int | None = None
) -> PairGrade:
    """Return B where a loss of the margin is excluded, D where a loss of more is shown, else C.

    >>> pair_grade(-0.01, 0.01, Fraction("0.025"), 0.001), pair_grade(-0.2, -0.1, Fraction("0.025"), 1.0)
    ('B', 'D')
    >>> pair_grade(-0.025, 0.01, Fraction("0.025"), 0.05)
    'C'

    low, high: the one-sided 95 % bounds of Δ. margin: positive. p_value: of "it loses the margin or more", adjusted
    if there are several candidates. groups: independent groups of examples, of scores other than 0/1: below
    `FEWEST_GROUPS` the grade is C.
    """
    allowed = exactly(margin)
    if groups is not None and groups < FEWEST_GROUPS:
        return "C"
    if exactly(high) < -allowed:
        return "D"
    return "B" if exactly(low) > -allowed and p_value <= LEVEL else "C"


def too_few_groups(groups: int) -> str:
    """Return why so few groups have no grade, of scores other than 0/1.

    >>> too_few_groups(120)
    'scores other than 0/1 need 1,000 independent examples, and there are 120'
    """
    return (
        f"scores other than 0/1 need {FEWEST_GROUPS:,} independent examples, and there"
        f" {'is' if groups == 1 else 'are'} {groups:,}"
    )


def exactly(value: Fraction | float) -> Fraction:
    """Return a number as a file has it: −0.025 is the margin exactly, and its binary number is a little less."""
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))


def holm_adjusted(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p-value of each candidate, adjusted for all of them (see `adjusted_p_values`)."""
    adjusted = adjusted_p_values([[value] for value in p_values.values()])
    return {name: value for name, (value,) in zip(p_values, adjusted, strict=True)}


def adjusted_p_values(claims: Sequence[Sequence[float]]) -> list[list[float]]:
    """Adjust the p-values of all claims of a run: each at most 0.05 keeps the chance of any false claim at 5 %.

    >>> adjusted_p_values([[0.01], [0.04], [0.03]])  # three candidates: Holm
    [[0.03], [0.06], [0.06]]
    >>> adjusted_p_values([[0.001, 0.02, 0.3, 0.01]])  # one ladder: the fourth step is not shown
    [[0.001, 0.02, 0.3, 0.3]]
    >>> adjusted_p_values([[0.01], [0.001, 0.03]])  # a candidate beside a ladder of two steps
    [[0.02], [0.002, 0.03]]

    claims: one list for each candidate, with one p-value, and for each ladder, in the order of its steps. The level is
    split equally. A candidate or a whole ladder that is shown leaves its share to the others. The order of the steps
    must be fixed before the answers are known.
    Source: F. Bretz et al., Statistics in Medicine 28 (2009) 586-604; without a ladder it is S. Holm's (1979).
    """
    adjusted: list[list[float]] = [[] for _ in claims]
    largest = 0.0
    while open_claims := [
        place for place, p_values in enumerate(claims) if len(adjusted[place]) < len(p_values)
    ]:
        value, place = min((claims[place][len(adjusted[place])], place) for place in open_claims)
        largest = max(largest, min(1.0, len(open_claims) * value))
        adjusted[place].append(largest)
    return adjusted


# ---------------------------------------------------------------- share of changed answers
#
# Exact binomial bounds, at one look or at several. For any deterministic scorer of an answer's text with values between
# 0 and 1, the mean score cannot drop by more than the share of changed answers.


def most_changed(looks: Sequence[int], share: float, level: float, planned: int | None = None) -> list[int]:
    """Return how many answers may have changed at each look to rule out that `share` or more change; −1 for none.

    >>> most_changed([199], 0.015, 0.05), most_changed([198], 0.015, 0.05), most_changed([1000], 0.015, 0.05)
    ([0], [-1], [8])
    >>> most_changed([300, 650, 1000], 0.015, 0.05)
    [0, 3, 8]

    looks: answers at each look, of `planned` ones. If exactly `share` change, the chance to rule it out at one look or
    another is at most `level`: it is computed over the paths that have not ended before. The error is spent as in
    `gradience.statistics.sequential`.
    """
    paths, before, used, numbers = np.ones(1), 0, 0.0, []
    for look in looks:
        new = look - before
        paths = np.convolve(paths, binom.pmf(np.arange(new + 1), new, share))
        ended = np.cumsum(paths)
        spent = level * math.log1p((math.e - 1) * look / (planned or looks[-1]))
        most = int(np.searchsorted(ended, spent - used, side="right")) - 1
        if most >= 0:
            used += float(ended[most])
            paths[: most + 1] = 0.0
        numbers.append(most)
        before = look
    return numbers


def p_value(changed: int, looks: Sequence[int], share: float, planned: int | None = None) -> float:
    """Return the smallest level at which the last of `looks` rules out that `share` or more change.

    >>> round(p_value(0, [199], 0.015), 4)
    0.0494
    """

    def ruled_out(level: float) -> bool:
        return most_changed(looks, share, level, planned)[-1] >= changed

    return math.exp(_boundary(lambda log: ruled_out(math.exp(log)), math.log(1e-12), 0.0))


def largest_share(
    changed: int, looks: Sequence[int], level: float = 0.05, planned: int | None = None
) -> float:
    """Return the upper bound of the share of changed answers: the smallest that the last of `looks` rules out.

    At one look it is Clopper and Pearson's one-sided bound.

    >>> round(largest_share(0, [198]), 4), round(largest_share(8, [1000]), 4)
    (0.015, 0.0144)
    """
    return _boundary(
        lambda share: most_changed(looks, share, level, planned)[-1] >= changed, changed / looks[-1], 1.0
    )


def _boundary(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where `holds` becomes true between `low` and `high`, rounded up; `high` if it does not."""
    if holds(low):
        return low
    if not holds(high):
        return high
    width = 1e-9 * max(1.0, abs(high - low))
    return float(brentq(lambda value: 1.0 if holds(value) else -1.0, low, high, xtol=width)) + width
