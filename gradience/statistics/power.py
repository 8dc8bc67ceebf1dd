"""Planning: examples and seeds that a claim needs, and the smallest margin that a budget can show.

The mean difference of S seeds on n examples has the variance pd·(1 + (S − 1)·ρ)/(S·n) + τ²/S: pd the discordance, ρ the
correlation of two seeds' differences on one example, τ the spread between runs. The test is a score test: its standard
error is that of a candidate at the margin. It is larger if few answers change, so more examples are needed than by the
textbook's formula. Half a lost example and the added group of the design effect are counted as in the test.
For the mean over trainings, τ and the degrees of freedom are estimated from S seeds (the runs' spread minus the part
that the examples explain), so the power is averaged over the distribution of that estimate.
"""

import math
from dataclasses import KW_ONLY, dataclass, replace
from functools import lru_cache

import numpy as np
import scipy
from numpy.typing import NDArray

from gradience.statistics.paired import FEWEST_GROUPS, net_loss_tail, score_variance
from gradience.statistics.pooled import Claim, Pooled

DEFAULT_CORRELATION = 0.2
MOST_EXAMPLES = 10**9
"""Upper limit of the search."""
WORST = 3.0
"""Standard deviations by which the worst of a few hundred normal differences is below their mean."""
SMALLEST_SHARE = 1e-8
"""The smallest margin, in standard deviations of one example, whose number of examples is given."""
_SMALLEST_VARIANCE = 1e-30
"""Used for 0 if no pair differs."""
_POINTS = 200
"""Equally probable spreads of S runs, over which the mean is taken."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """A claim to be shown, and the assumed noise of the answers that it rests on."""

    discordance: float
    _: KW_ONLY
    seeds: int = 1
    spread: float = 0.0
    """τ: standard deviation of a run's own true difference."""
    claim: Claim = "these-runs"
    correlation: float = DEFAULT_CORRELATION
    """Of two seeds' differences on one example."""
    delta: float = 0.0
    """The true difference."""
    level: float = 0.05

    def power(self, n: int, margin: float) -> float:
        """The chance to show non-inferiority at `margin` with `n` examples.

        >>> round(Assumptions(0.16, seeds=3).power(770, 0.025), 2)
        0.8
        >>> round(Assumptions(0.16, seeds=3, spread=0.01, claim="mean-over-trainings").power(770, 0.025), 2)
        0.64

        Raises ValueError for "mean-over-trainings" with one seed.
        """
        seeds, delta, variance = self.seeds, self.delta, self.discordance - self.delta**2
        design_effect, pairs = 1 + (seeds - 1) * self.correlation, seeds * n
        sampling = max(design_effect / pairs * variance, _SMALLEST_VARIANCE)
        changed = pairs * self.discordance
        estimated_effect = (changed * design_effect + seeds**2) / (changed + seeds)  # as `pool` estimates it
        # The variance of one pair that the score takes at the margin.
        gained, lost = (self.discordance + delta) / 2, (self.discordance - delta) / 2
        at_margin = estimated_effect / pairs * score_variance(gained, lost, 1, -margin)
        if self.claim == "these-runs":  # half a lost example: the exact chance has steps
            error = -scipy.special.ndtri(self.level) * math.sqrt(at_margin) + estimated_effect / pairs / 2
            return float(scipy.special.ndtr((delta + margin - error) / math.sqrt(sampling)))
        # Part of the runs' spread that the examples explain.
        of_one_run = variance * (1 - self.correlation) / n
        estimated = np.maximum(0.0, (self.spread**2 + of_one_run) * _spreads(seeds) - of_one_run) / seeds
        # Satterthwaite's degrees of freedom; the denominator is 0 at a margin of 1.
        denominator = at_margin**2 / max(n - 1, 1) + estimated**2 / (seeds - 1)
        some = denominator > 0
        degrees = np.divide(
            (at_margin + estimated) ** 2, denominator, out=np.ones_like(denominator), where=some
        )
        errors = -scipy.special.stdtrit(degrees, self.level) * np.sqrt(at_margin + estimated)
        deviation = math.sqrt(sampling + self.spread**2 / seeds)
        return float(scipy.special.ndtr((delta + margin - errors) / deviation).mean())

    def examples_needed(self, margin: float, wanted: float = 0.8) -> int | None:
        """Return the fewest examples that give the power `wanted`; None if no number does because runs differ too much.

        >>> Assumptions(0.16, seeds=3).examples_needed(0.025)
        770
        >>> Assumptions(0.16, seeds=3, spread=0.005, claim="mean-over-trainings").examples_needed(0.025)
        1006
        """
        too_few, enough = 1, MOST_EXAMPLES
        if self.delta + margin <= 0 or self.power(enough, margin) < wanted:
            return None
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            too_few, enough = (too_few, middle) if self.power(middle, margin) >= wanted else (middle, enough)
        return enough

    def seeds_needed(self, n: int, margin: float, *, wanted: float = 0.8, most: int = 100) -> int | None:
        """Return the fewest seeds that give the power `wanted` on `n` examples; None if `most` seeds do not.

        >>> Assumptions(0.16).seeds_needed(770, 0.025)
        3
        >>> Assumptions(0.16, spread=0.01, claim="mean-over-trainings").seeds_needed(770, 0.025)
        6
        """
        counts = range(2 if self.claim == "mean-over-trainings" else 1, most + 1)
        return next((k for k in counts if replace(self, seeds=k).power(n, margin) >= wanted), None)

    def smallest_margin(self, n: int, wanted: float = 0.8) -> float:
        """Return the margin that is shown with the power `wanted`; 1 if no margin reaches it.

        >>> plan = Assumptions(0.16, seeds=3)
        >>> round(plan.smallest_margin(200), 3), round(plan.smallest_margin(1319), 3)
        (0.051, 0.019)
        """
        widest = 1 - 1e-6
        if self.power(n, widest) <= wanted:
            return 1.0
        return float(scipy.optimize.brentq(lambda m: self.power(n, m) - wanted, 0.0, widest, xtol=1e-9))


def discordance_range(discordance: float, n: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a discordance that `n` independent examples showed (Clopper & Pearson, 1934).

    >>> [round(end, 4) for end in discordance_range(0.1, 200)], [round(end, 4) for end in discordance_range(0, 200)]
    ([0.0622, 0.1502], [0.0, 0.0183])
    """
    changed = round(discordance * n)
    low = scipy.special.betaincinv(changed, n - changed + 1, 0.025) if changed else 0.0
    high = scipy.special.betaincinv(changed + 1, n - changed, 0.975) if changed < n else 1.0
    return float(low), float(high)


def variance_range(variance: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a variance that `n` independent differences showed, if they vary normally.

    >>> [round(end, 3) for end in variance_range(1.0, 300)]
    [0.857, 1.182]
    """
    low, high = (2 * scipy.special.gammaincinv((n - 1) / 2, share) / (n - 1) for share in (0.975, 0.025))
    return variance / float(low), variance / float(high)


def seeds_for_next(
    pooled: Pooled, margin: float, *, level: float = 0.05, fewest: int = 3, most: int = 100
) -> int | None:
    """Return the fewest seeds whose bound on the next training is above −margin, if mean and spread stay as seen.

    None if `most` do not, and for one run. Student's prediction interval, as in `Pooled.interval`.
    """
    if pooled.seed_variance is None:
        return None
    for seeds in range(max(fewest, pooled.runs), most + 1):
        error = math.sqrt(pooled.seed_variance * (1 + 1 / seeds) + pooled.example_variance)
        if pooled.delta + float(scipy.special.stdtrit(seeds - 1, level)) * error > -margin:
            return seeds
    return None


def examples_for_mean(
    variance: float, margin: float, *, level: float = 0.05, wanted: float = 0.8
) -> int | None:
    """Return the fewest examples that show a margin for scores other than 0/1, if both are equal; None for too many.

    >>> examples_for_mean(0.25, 0.03), examples_for_mean(0.25, 0.2)
    (1817, 1000)

    variance: of the differences of single examples. Never below the floor of a grade. Normal quantiles, and the example
    that the test adds, `WORST` standard deviations below the mean.
    """
    quantiles, deviation = scipy.special.ndtri(wanted) - scipy.special.ndtri(level), math.sqrt(variance)
    if margin <= SMALLEST_SHARE * quantiles * deviation:
        return None
    slope = quantiles * deviation  # margin·n = slope·√n + WORST·deviation
    root = (slope + math.sqrt(slope**2 + 4 * margin * WORST * deviation)) / (2 * margin)
    return max(FEWEST_GROUPS, math.ceil(root**2 - 1e-9))


def smallest_margin_of_mean(n: int, variance: float, *, level: float = 0.05, wanted: float = 0.8) -> float:
    """Return the margin that an equally good candidate shows with the power `wanted`, for scores other than 0/1.

    >>> round(smallest_margin_of_mean(677, 0.25), 3)
    0.05
    """
    quantiles = scipy.special.ndtri(wanted) - scipy.special.ndtri(level)
    return float(quantiles * math.sqrt(variance / n) + WORST * math.sqrt(variance) / n)


@lru_cache(maxsize=128)
def _spreads(seeds: int) -> NDArray[np.float64]:
    """The variance of `seeds` runs against the true one, at equally probable points: χ²/(S − 1)."""
    if seeds < 2:
        raise ValueError("a claim about trainings needs two seeds or more")
    shares = (np.arange(_POINTS) + 0.5) / _POINTS
    spreads: NDArray[np.float64] = 2 * scipy.special.gammaincinv((seeds - 1) / 2, shares) / (seeds - 1)
    return spreads


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
    delta = min(max(delta, -discordance), discordance)
    return net_loss_tail(allowed, n, lost=(discordance - delta) / 2, gained=(discordance + delta) / 2)
