"""Several training runs on the same examples: is the candidate non-inferior? Three claims, three errors.

"These runs": the runs are fixed, and only the examples are a sample. "Mean over trainings": the runs are a sample too,
and the claim is about the mean of all trainings that the recipe could give. "Next training": the claim is about one
more training, which may deviate more than the uncertainty of the mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from gradience.statistics import paired

Claim = Literal["these-runs", "mean-over-trainings", "next-training"]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Pooled:
    """Pooled evidence of several paired runs. Made by `pool`."""

    runs: int
    examples: int
    groups: int
    """Independent groups of examples; as many as examples if each is its own."""
    delta: float
    """Mean of candidate − reference over runs and examples."""
    gained: int | None
    """Number of pairs with only the candidate correct, over all runs; None for scores other than 0/1."""
    lost: int | None
    example_variance: float
    """Variance of `delta` from the choice of groups, a group's examples and their runs taken together."""
    design_effect: float
    """Variance inflation from pairs of one group that change together: 1 (independent) … pairs of the largest group."""
    run_variance: float | None
    """τ²: the variance of a run's true difference, without what the choice of examples explains; None for one run."""
    seed_variance: float | None
    """s²: the variance of the differences that the runs show, which that choice is a part of; None for one run."""
    lowest: float | None = None
    """Smallest deviation of a group, as its part of `delta`; None for 0/1 scores."""
    highest: float | None = None
    """Largest deviation of a group."""

    @cached_property
    def discordance(self) -> float | None:
        """The share of pairs in which exactly one is correct."""
        if self.gained is None or self.lost is None:
            return None
        return (self.gained + self.lost) / (self.runs * self.examples)

    @property
    def independent_examples(self) -> int:
        """As many independent examples would know the difference as well."""
        return math.floor(self.runs * self.examples / self.design_effect + _ROUNDING)

    def p_value(self, margin: float, claim: Claim = "these-runs") -> float:
        """The one-sided p-value of "the candidate loses `margin` or more"."""
        return self._tail(-margin, claim, low=True)

    def worse_p_value(self, margin: float, claim: Claim = "these-runs") -> float:
        """The one-sided p-value of "the candidate loses `margin` or less": small where it is worse."""
        return self._tail(-margin, claim, low=False)

    def interval(self, claim: Claim = "these-runs", confidence: float = 0.90) -> paired.Interval:
        """The bounds on Δ. At the default of 90 %, either bound by itself is a one-sided 95 % bound.

        Raises ValueError for one run unless the claim is about these runs: the spread of trainings is unknown.
        """
        tail = (1 - confidence) / 2

        def standard(null: float) -> float:
            """The statistic as a normal one, so that its quantile is one number."""
            low = null < self.delta
            beyond = self._tail(null, claim, low=low)
            return float(scipy.special.ndtri(beyond)) * (-1 if low else 1)

        if self.gained is None:
            low, high = self._with_one_more(low=True), self._with_one_more(low=False)
            return paired.Interval(low.delta - low._reach(claim, tail), high.delta + high._reach(claim, tail))
        return paired.invert(standard, self.delta, -float(scipy.special.ndtri(tail)))

    def _tail(self, null: float, claim: Claim, *, low: bool) -> float:
        """The p-value of "Δ is `null` or below" (`low`) or "or above": of 0/1 answers the larger of two.

        The score test is too bold where few pairs differ. The exact chance is that of a net loss like the observed one
        among independent examples with the discordance that fits `null` best. Of other scores it is the larger of
        Student's, with one more group, and the chance that a share of `RARE` is in no group.
        """
        if self.gained is None or self.lost is None:
            return max(
                self._with_one_more(low=low)._student(null, claim, low=low), (1 - paired.RARE) ** self.groups
            )
        tail = self._student(null, claim, low=low)
        shares = paired.constrained(self.gained, self.lost, self.runs * self.examples, null)
        net, n = (self.lost - self.gained) / self.design_effect, self.independent_examples
        if low:
            return max(tail, paired.net_loss_tail(math.ceil(net - _ROUNDING), n, *shares))
        return max(tail, paired.net_loss_tail(math.floor(net + _ROUNDING), n, *shares, at_least=True))

    def _student(self, null: float, claim: Claim, *, low: bool) -> float:
        statistic = paired.in_errors(self.delta - null, self._variance(null, claim))
        return float(scipy.special.stdtr(self._freedom(null, claim), -statistic if low else statistic))

    def _reach(self, claim: Claim, tail: float) -> float:
        quantile = -float(scipy.special.stdtrit(self._freedom(0.0, claim), tail))
        return quantile * math.sqrt(self._variance(0.0, claim))

    def _with_one_more(self, *, low: bool) -> Pooled:
        """Return scores in which the group that counts most against the bound has occurred once more."""
        deviation = (self.lowest if low else self.highest) or 0.0
        shift = deviation * self.groups / (self.groups + 1)
        return replace(
            self,
            groups=self.groups + 1,
            delta=self.delta + shift,
            example_variance=self.example_variance * (self.groups - 1) / (self.groups + 1) + shift**2,
        )

    def _variance(self, null: float, claim: Claim) -> float:
        return self._sampling(null) + (0.0 if claim == "these-runs" else self._between(claim))

    def _sampling(self, null: float) -> float:
        if self.gained is None or self.lost is None:
            return self.example_variance
        tango = paired.score_variance(self.gained, self.lost, self.runs * self.examples, null)
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
            return math.inf if self.gained is not None and self.groups == self.examples else self.groups - 1
        if claim == "next-training":
            return self.runs - 1
        sampling, between = self._sampling(null), self._between(claim)
        if sampling + between == 0:
            return self.groups - 1
        return (sampling + between) ** 2 / (sampling**2 / (self.groups - 1) + between**2 / (self.runs - 1))


def pool(differences: ArrayLike, groups: ArrayLike | None = None) -> Pooled:
    """Pool the paired differences of several runs on the same examples.

    >>> import numpy as np
    >>> differences = np.zeros((3, 500), dtype=int)      # three seeds, 500 examples
    >>> differences[:, :6], differences[:, 6:10] = -1, 1  # each seed: 6 lost, 4 gained
    >>> pooled = pool(differences)
    >>> round(pooled.delta, 4), pooled.design_effect, pooled.run_variance
    (-0.004, 3.0, 0.0)
    >>> [round(pooled.interval(claim).low, 4) for claim in ("mean-over-trainings", "next-training")]
    [-0.0168, -0.0295]

    differences: (runs, examples), candidate − reference: −1, 0 or 1, or differences of scores. groups: (examples,), the
    document, user or template of each example; None if all are independent.
    For 0/1 answers the sampling variance is Tango's constrained one times the design effect of pairs that belong
    together (J. N. K. Rao & A. J. Scott, Biometrics 48 (1992) 577-585); with one run and no groups it is Tango's. The
    design effect is estimated as if one more group of the mean size had changed as a whole, so that it is the largest
    where no pair differs. The exact tail: B. E. Storer & C. Kim, JASA 85 (1990) 146-155. Groups are the clusters
    (E. Miller, arXiv 2411.00640). Other scores have Student's test, in which the group with the greatest loss (of an
    upper bound: gain) counts twice: a heavy tail is seldom seen in full. τ² is the estimate of the two-way analysis of
    variance, at least 0; degrees of freedom: F. E. Satterthwaite, Biometrics Bulletin 2 (1946). The bound on the next
    training is Student's prediction interval with S − 1 degrees of freedom, for trainings that vary normally, plus the
    sampling variance of the mean.
    Raises ValueError for another shape, fewer than two examples or groups, or what is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise ValueError("differences are finite, of the shape (runs, examples), with two examples or more")
    runs, examples = values.shape
    group_of = np.arange(examples)
    if groups is not None:
        _, group_of = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(group_of)
    if len(group_of) != examples or len(sizes) < 2:
        raise ValueError("groups have one entry for each example, and two groups or more")

    def of_groups(rows: NDArray[np.float64]) -> float:
        """The sum of the squared totals of the groups, over all rows."""
        totals = sum(float((np.bincount(group_of, row) ** 2).sum()) for row in rows)
        return totals * len(sizes) / (len(sizes) - 1)

    of_run, mean = values.mean(axis=1), float(values.mean())
    deviations = values - mean
    squares = of_groups(deviations.sum(axis=0)[None, :])
    run_variance = seed_variance = None
    if runs > 1:
        residuals = values - values.mean(axis=0)[None, :] - of_run[:, None] + mean
        seed_variance = float(of_run.var(ddof=1))
        run_variance = max(0.0, seed_variance - of_groups(residuals) / (runs - 1) / examples**2)
    counted = bool(np.isin(values, (-1.0, 0.0, 1.0)).all())
    gained, lost = (int((values > 0).sum()), int((values < 0).sum())) if counted else (None, None)
    parts = np.bincount(group_of, deviations.sum(axis=0)) / (runs * examples)
    added = runs * float((sizes**2).sum()) / examples
    effect = (squares + added**2) / (float((deviations**2).sum()) + added)
    return Pooled(
        runs=runs,
        examples=examples,
        groups=len(sizes),
        delta=mean,
        gained=gained,
        lost=lost,
        example_variance=squares / (runs * examples) ** 2,
        design_effect=min(max(effect, 1.0), float(runs * sizes.max())),
        run_variance=run_variance,
        seed_variance=seed_variance,
        lowest=None if counted else float(parts.min()),
        highest=None if counted else float(parts.max()),
    )
