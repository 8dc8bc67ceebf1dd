"""What is measured of every trained module. A new measure is a function here or in `spectra`, a line in `MEASURES`, and
its field in `artifacts.audit.LayerAudit`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gradience.random_factors import null_stable_rank
from gradience.spectra import FloatArray, effective_rank, energy_margin, energy_rank, stable_rank

TAUS = (0.90, 0.95, 0.99)


class Update(NamedTuple):
    """A trained module. values: singular values of B·A up to a factor, descending, values[0] > 0.

    rank: as allocated.   shape: (m, n).   tau: energy threshold of the audit.
    """

    values: FloatArray
    rank: int
    shape: tuple[int, int]
    tau: float


def utilization(update: Update) -> float:
    """Stable rank / r."""
    return stable_rank(update.values) / update.rank


def rank_use(update: Update) -> float | None:
    """(stable rank − 1)/(r − 1); None at r = 1."""
    return (stable_rank(update.values) - 1) / (update.rank - 1) if update.rank > 1 else None


def null_position(update: Update) -> float | None:
    """(stable rank − 1)/(stable rank of random factors − 1); None where that is 1."""
    null = null_stable_rank(update.rank, *update.shape)
    return (stable_rank(update.values) - 1) / (null - 1) if null > 1 else None


MEASURES: Mapping[str, Callable[[Update], Any]] = {
    "stable_rank": lambda update: stable_rank(update.values),
    "effective_rank": lambda update: effective_rank(update.values),
    "utilization": utilization,
    "rank_use": rank_use,
    "null_stable_rank": lambda update: null_stable_rank(update.rank, *update.shape),
    "null_position": null_position,
    "energy_rank_90": lambda update: energy_rank(update.values, 0.90),
    "energy_rank_95": lambda update: energy_rank(update.values, 0.95),
    "energy_rank_99": lambda update: energy_rank(update.values, 0.99),
    "energy_rank_tau": lambda update: energy_rank(update.values, update.tau),
    "energy_margin": lambda update: energy_margin(update.values, (*TAUS, update.tau)),
}
"""Field of a row -> its measure."""
