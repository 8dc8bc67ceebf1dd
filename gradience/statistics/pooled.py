"""Several training runs on the same examples: is the candidate non-inferior in these runs, and in a new one?

Two claims, two errors. "These runs" (F): the runs are fixed, and only other examples might have been asked. "A new run"
(R): another seed would have given another pair of adapters, so the spread between runs counts as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from gradience.statistics.paired import Interval, in_errors, invert, score_variance

Claim = Literal["these-runs", "new-run"]


@dataclass(frozen=True)
class Pooled:
    """What several paired runs say together. Made by `pool`."""

    runs: int
    items: int
    delta: float
    """Mean of candidate − reference over runs and examples."""
    gained: int | None
    """Pairs of which only the candidate is correct, over all runs; None for scores that are no 0/1."""
    lost: int | None
    item_variance: float
    """Variance of `delta` from the choice of examples, an example's runs taken together."""
    design_effect: float
    """How much more the runs' answers to one example agree than independent ones would: 1 … runs."""
    run_variance: float | None
    """τ²: the variance of a run's true difference; None for one run."""

    @cached_property
    def discordance(self) -> float | None:
        """The share of pairs in which exactly one is correct."""
        if self.gained is None or self.lost is None:
            return None
        return (self.gained + self.lost) / (self.runs * self.items)

    def p_value(self, margin: float, claim: Claim = "these-runs") -> float:
        """The one-sided p-value of "the candidate loses `margin` or more"."""
        return float(special.stdtr(self._freedom(-margin, claim), -self._statistic(-margin, claim)))

    def interval(self, claim: Claim = "these-runs", confidence: float = 0.90) -> Interval:
        """The bounds on Δ. At the default of 90 %, either bound alone is a one-sided one of 95 %.

        Raises ValueError for "new-run" where there is one run: its spread is unknown.
        """
        tail = (1 - confidence) / 2

        def standard(null: float) -> float:
            """The statistic as a normal one, so that its quantile is one number."""
            statistic = self._statistic(null, claim)
            beyond = special.stdtr(self._freedom(null, claim), -abs(statistic))
            return math.copysign(float(special.ndtri(beyond)), statistic)

        if self.gained is None:
            quantile = -float(special.stdtrit(self._freedom(0.0, claim), tail))
            reach = quantile * math.sqrt(self._variance(0.0, claim))
            return Interval(self.delta - reach, self.delta + reach)
        return invert(standard, self.delta, -float(special.ndtri(tail)))

    def _statistic(self, null: float, claim: Claim) -> float:
        return in_errors(self.delta - null, self._variance(null, claim))

    def _variance(self, null: float, claim: Claim) -> float:
        return self._sampling(null) + (self._between() if claim == "new-run" else 0.0)

    def _sampling(self, null: float) -> float:
        if self.gained is None or self.lost is None:
            return self.item_variance
        tango = score_variance(self.gained, self.lost, self.runs * self.items, null)
        return self.design_effect * tango

    def _between(self) -> float:
        if self.run_variance is None:
            raise ValueError("a claim about a new run needs two runs or more")
        return self.run_variance / self.runs

    def _freedom(self, null: float, claim: Claim) -> float:
        """Degrees of freedom of Student's distribution: infinite for a score of these runs, else Satterthwaite's."""
        if claim == "these-runs":
            return math.inf if self.gained is not None else self.items - 1
        sampling, between = self._sampling(null), self._between()
        if sampling + between == 0:
            return self.items - 1
        return (sampling + between) ** 2 / (sampling**2 / (self.items - 1) + between**2 / (self.runs - 1))


def pool(differences: ArrayLike) -> Pooled:
    """Pool the paired differences of several runs on the same examples.

    >>> import numpy as np
    >>> differences = np.zeros((3, 500), dtype=int)      # three seeds, 500 examples
    >>> differences[:, :6], differences[:, 6:10] = -1, 1  # each seed: 6 lost, 4 gained
    >>> pooled = pool(differences)
    >>> round(pooled.delta, 4), pooled.design_effect, pooled.run_variance
    (-0.004, 3.0, 0.0)
    >>> round(pooled.interval("new-run").low, 4)
    -0.0161

    differences: (runs, items), candidate − reference: −1, 0 or 1, or differences of scores.
    For 0/1 answers the sampling variance is Tango's constrained one times the design effect of items that several runs
    share (J. N. K. Rao & A. J. Scott, Biometrics 48 (1992) 577-585); with one run it is Tango's test itself. The
    items are the clusters (E. Miller, arXiv 2411.00640). τ² is the two-way analysis of variance's estimate, at least 0;
    degrees of freedom: F. E. Satterthwaite, Biometrics Bulletin 2 (1946).
    Raises ValueError for another shape, fewer than two items, or what is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 1 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise ValueError("differences are finite, of the shape (runs, items), with two items or more")
    runs, items = values.shape
    of_item, of_run, mean = values.mean(axis=0), values.mean(axis=1), float(values.mean())
    item_variance = float(of_item.var(ddof=1)) / items
    residuals = values - of_item[None, :] - of_run[:, None] + mean
    run_variance = None
    if runs > 1:
        noise = float((residuals**2).sum()) / ((runs - 1) * (items - 1)) / items
        run_variance = max(0.0, float(of_run.var(ddof=1)) - noise)
    counted = bool(np.isin(values, (-1.0, 0.0, 1.0)).all())
    gained, lost = (int((values > 0).sum()), int((values < 0).sum())) if counted else (None, None)
    effect = _design_effect(values, item_variance)
    return Pooled(runs, items, mean, gained, lost, item_variance, effect, run_variance)


def _design_effect(values: NDArray[np.float64], item_variance: float) -> float:
    """The variance of the mean against that of independent pairs; `runs` where no pair differs, which is the worst."""
    runs, items = values.shape
    independent = float(values.var()) / (runs * items)
    if independent == 0:
        return float(runs)
    return float(min(max(item_variance / independent, 1.0), runs))
