"""Several training runs on the same examples: is the candidate non-inferior? Three claims, three errors.

"These runs": the runs are fixed, and only the examples are a sample. "Mean over trainings": the runs are a sample too,
and the claim is about the mean of all trainings that the recipe could give. "Next training": the claim is about one
more training, which may deviate more than the uncertainty of the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from gradience.statistics.paired import Interval, in_errors, invert, score_variance

Claim = Literal["these-runs", "mean-over-trainings", "next-training"]


@dataclass(frozen=True)
class Pooled:
    """Pooled evidence of several paired runs. Made by `pool`."""

    runs: int
    examples: int
    delta: float
    """Mean of candidate − reference over runs and examples."""
    gained: int | None
    """Number of pairs with only the candidate correct, over all runs; None for scores other than 0/1."""
    lost: int | None
    example_variance: float
    """Variance of `delta` from the choice of examples, an example's runs taken together."""
    design_effect: float
    """Variance inflation from runs that agree on the same examples: 1 (independent) … number of runs."""
    run_variance: float | None
    """τ²: the variance of a run's true difference, without what the choice of examples explains; None for one run."""
    seed_variance: float | None
    """s²: the variance of the differences that the runs show, which that choice is a part of; None for one run."""

    @cached_property
    def discordance(self) -> float | None:
        """The share of pairs in which exactly one is correct."""
        if self.gained is None or self.lost is None:
            return None
        return (self.gained + self.lost) / (self.runs * self.examples)

    def p_value(self, margin: float, claim: Claim = "these-runs") -> float:
        """The one-sided p-value of "the candidate loses `margin` or more"."""
        return float(scipy.special.stdtr(self._freedom(-margin, claim), -self._statistic(-margin, claim)))

    def interval(self, claim: Claim = "these-runs", confidence: float = 0.90) -> Interval:
        """The bounds on Δ. At the default of 90 %, either bound by itself is a one-sided 95 % bound.

        Raises ValueError for one run unless the claim is about these runs: the spread of trainings is unknown.
        """
        tail = (1 - confidence) / 2

        def standard(null: float) -> float:
            """The statistic as a normal one, so that its quantile is one number."""
            statistic = self._statistic(null, claim)
            beyond = scipy.special.stdtr(self._freedom(null, claim), -abs(statistic))
            return math.copysign(float(scipy.special.ndtri(beyond)), statistic)

        if self.gained is None:
            quantile = -float(scipy.special.stdtrit(self._freedom(0.0, claim), tail))
            reach = quantile * math.sqrt(self._variance(0.0, claim))
            return Interval(self.delta - reach, self.delta + reach)
        return invert(standard, self.delta, -float(scipy.special.ndtri(tail)))

    def _statistic(self, null: float, claim: Claim) -> float:
        return in_errors(self.delta - null, self._variance(null, claim))

    def _variance(self, null: float, claim: Claim) -> float:
        return self._sampling(null) + (0.0 if claim == "these-runs" else self._between(claim))

    def _sampling(self, null: float) -> float:
        if self.gained is None or self.lost is None:
            return self.example_variance
        tango = score_variance(self.gained, self.lost, self.runs * self.examples, null)
        return self.design_effect * tango

    def _between(self, claim: Claim) -> float:
        if self.run_variance is None or self.seed_variance is None:
            raise ValueError("a claim about trainings needs two runs or more")
        if claim == "next-training":  # a prediction interval: one more draw, and the error of the mean
            return self.seed_variance * (1 + 1 / self.runs)
        return self.run_variance / self.runs

    def _freedom(self, null: float, claim: Claim) -> float:
        """Degrees of freedom of Student's distribution: infinite for a score of these runs, else Satterthwaite's."""
        if claim == "these-runs":
            return math.inf if self.gained is not None else self.examples - 1
        if claim == "next-training":
            return self.runs - 1
        sampling, between = self._sampling(null), self._between(claim)
        if sampling + between == 0:
            return self.examples - 1
        return (sampling + between) ** 2 / (sampling**2 / (self.examples - 1) + between**2 / (self.runs - 1))


def pool(differences: ArrayLike) -> Pooled:
    """Pool the paired differences of several runs on the same examples.

    >>> import numpy as np
    >>> differences = np.zeros((3, 500), dtype=int)      # three seeds, 500 examples
    >>> differences[:, :6], differences[:, 6:10] = -1, 1  # each seed: 6 lost, 4 gained
    >>> pooled = pool(differences)
    >>> round(pooled.delta, 4), pooled.design_effect, pooled.run_variance
    (-0.004, 3.0, 0.0)
    >>> [round(pooled.interval(claim).low, 4) for claim in ("mean-over-trainings", "next-training")]
    [-0.0161, -0.0295]

    differences: (runs, examples), candidate − reference: −1, 0 or 1, or differences of scores.
    For 0/1 answers the sampling variance is Tango's constrained one times the design effect of examples that several
    runs share (J. N. K. Rao & A. J. Scott, Biometrics 48 (1992) 577-585); with one run it is Tango's test itself. The
    examples are the clusters (E. Miller, arXiv 2411.00640). τ² is the estimate of the two-way analysis of variance, at
    least 0; degrees of freedom: F. E. Satterthwaite, Biometrics Bulletin 2 (1946). The bound on the next training is
    Student's prediction interval with S − 1 degrees of freedom, for trainings that vary normally, plus the sampling
    variance of the mean.
    Raises ValueError for another shape, fewer than two examples, or what is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise ValueError("differences are finite, of the shape (runs, examples), with two examples or more")
    runs, examples = values.shape
    of_example, of_run, mean = values.mean(axis=0), values.mean(axis=1), float(values.mean())
    example_variance = float(of_example.var(ddof=1)) / examples
    residuals = values - of_example[None, :] - of_run[:, None] + mean
    run_variance = seed_variance = None
    if runs > 1:
        noise = float((residuals**2).sum()) / ((runs - 1) * (examples - 1)) / examples
        seed_variance = float(of_run.var(ddof=1))
        run_variance = max(0.0, seed_variance - noise)
    counted = bool(np.isin(values, (-1.0, 0.0, 1.0)).all())
    gained, lost = (int((values > 0).sum()), int((values < 0).sum())) if counted else (None, None)
    effect = _design_effect(values, example_variance)
    return Pooled(runs, examples, mean, gained, lost, example_variance, effect, run_variance, seed_variance)


def _design_effect(values: NDArray[np.float64], example_variance: float) -> float:
    """The variance of the mean against that of independent pairs; `runs` if no pair differs, which is the worst."""
    runs, examples = values.shape
    independent = float(values.var()) / (runs * examples)
    if independent == 0:
        return float(runs)
    return float(min(max(example_variance / independent, 1.0), runs))


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """Spread between runs of one recipe."""

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

    correct: (runs, examples), 0 or 1. Raises ValueError for fewer than two runs or no examples.
    """
    answers = np.asarray(correct)
    if answers.ndim != 2 or answers.shape[0] < 2 or answers.shape[1] < 1:
        raise ValueError("a noise floor needs two runs or more on the same examples")
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
    """The one-sided lower bound of the mean difference by resampling examples: a cross-check for "these runs".

    >>> import numpy as np
    >>> round(bootstrap_bound(np.repeat([[-1, 0, 1]], [5, 190, 5], axis=1), resamples=2000), 3)
    -0.025

    differences: (runs, examples); the runs of an item stay together. The percentile bootstrap (B. Efron, 1979).
    """
    of_example = np.asarray(differences, dtype=np.float64).mean(axis=0)
    values, counts = np.unique(
        of_example, return_counts=True
    )  # few values: a multinomial is the same resampling
    draws = np.random.default_rng(seed).multinomial(counts.sum(), counts / counts.sum(), size=resamples)
    return float(np.quantile(draws @ values / counts.sum(), 1 - confidence))
