"""What is measured of every trained module. A new measure is a function here or in `spectra`, a line in `MEASURES`, and
its field in `artifacts.audit.LayerAudit`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gradience.random_factors import null_stable_rank
from gradience.spectra import (
    FloatArray,
    cumulative_energy,
    effective_rank,
    energy_margin,
    rank_that_holds,
    stable_rank,
)

TAUS = (0.90, 0.95, 0.99)


@dataclass(frozen=True)
class Update:
    """A trained module. values: singular values of B·A up to a factor, descending, values[0] > 0.

    rank: as allocated.   shape: (m, n).   tau: energy threshold of the audit.
    """

    values: FloatArray
    rank: int
    shape: tuple[int, int]
    tau: float

    @cached_property
    def stable_rank(self) -> float:
        """Σσ²/σ₁², which several measures rest on."""
        return stable_rank(self.values)

    @cached_property
    def held(self) -> FloatArray:
        """Shares of the energy that the leading 1, 2, … directions hold."""
        return cumulative_energy(self.values)

    @cached_property
    def null_stable_rank(self) -> float:
        """The stable rank of random factors of these shapes."""
        return null_stable_rank(self.rank, *self.shape)


def rank_use(update: Update) -> float | None:
    """(stable rank − 1)/(r − 1); None at r = 1."""
    return (update.stable_rank - 1) / (update.rank - 1) if update.rank > 1 else None


def null_position(update: Update) -> float | None:
    """(stable rank − 1)/(stable rank of random factors − 1); None where that is 1."""
    null = update.null_stable_rank
    return (update.stable_rank - 1) / (null - 1) if null > 1 else None


MEASURES: Mapping[str, Callable[[Update], Any]] = {
    "stable_rank": lambda update: update.stable_rank,
    "effective_rank": lambda update: effective_rank(update.values),
    "utilization": lambda update: update.stable_rank / update.rank,
    "rank_use": rank_use,
    "null_stable_rank": lambda update: update.null_stable_rank,
    "null_position": null_position,
    "energy_rank_90": lambda update: rank_that_holds(update.held, 0.90),
    "energy_rank_95": lambda update: rank_that_holds(update.held, 0.95),
    "energy_rank_99": lambda update: rank_that_holds(update.held, 0.99),
    "energy_rank_tau": lambda update: rank_that_holds(update.held, update.tau),
    "energy_margin": lambda update: energy_margin(update.values, (*TAUS, update.tau)),
}
"""Field of a row -> its measure."""
