"""One module of an adapter -> its rows of the audit: status, measures, and how exact they are.

A new measure is a function here or in `spectra`, a line in `MEASURES`, and its field in `artifacts.audit.LayerAudit`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gradience import spectra
from gradience.adapters.adapter import LoadedPair, LoraPair
from gradience.adapters.keys import family_of, layer_of, module_type
from gradience.adapters.tensors import decode, type_names
from gradience.random_factors import null_stable_rank
from gradience.reports.audit import LayerAudit
from gradience.spectra import FloatArray, Spectrum

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
        return spectra.stable_rank(self.values)

    @cached_property
    def held(self) -> FloatArray:
        """Shares of the energy that the leading 1, 2, … directions hold."""
        return spectra.cumulative_energy(self.values)

    @cached_property
    def null_stable_rank(self) -> float:
        """The stable rank of random factors of these shapes."""
        return null_stable_rank(self.rank, *self.shape)


def rank_use(update: Update) -> float | None:
    """(stable rank − 1)/(r − 1); None at r = 1."""
    return (update.stable_rank - 1) / (update.rank - 1) if update.rank > 1 else None


def null_position(update: Update) -> float | None:
    """(stable rank − 1)/(stable rank of random factors − 1); None if the latter is 1."""
    null = update.null_stable_rank
    return (update.stable_rank - 1) / (null - 1) if null > 1 else None


MEASURES: Mapping[str, Callable[[Update], Any]] = {
    "stable_rank": lambda update: update.stable_rank,
    "effective_rank": lambda update: spectra.effective_rank(update.values),
    "utilization": lambda update: update.stable_rank / update.rank,
    "rank_use": rank_use,
    "null_stable_rank": lambda update: update.null_stable_rank,
    "null_position": null_position,
    "energy_rank_90": lambda update: spectra.rank_that_holds(update.held, 0.90),
    "energy_rank_95": lambda update: spectra.rank_that_holds(update.held, 0.95),
    "energy_rank_99": lambda update: spectra.rank_that_holds(update.held, 0.99),
    "energy_rank_tau": lambda update: spectra.rank_that_holds(update.held, update.tau),
    "energy_margin": lambda update: spectra.energy_margin(update.values, (*TAUS, update.tau)),
}
"""Field of a row -> its measure."""


STORAGE_SHARE = 4.0
"""Relative change of the stable rank in unit roundoffs of the storage type over √min(m, n).

Rounding errors of the entries average out over the rows. Measured: 3.9 at most in normal ranges; see docs/measures.md
and benchmarks/storage_rounding.py.
"""


class Measured(NamedTuple):
    """The rows of one pair, and a sentence per factor that holds NaN or infinity."""

    rows: list[LayerAudit]
    nonfinite: list[str]


def spectrum_of(loaded: LoadedPair, expert: int = 0) -> Spectrum:
    """The singular values of B·A of one expert. Raises NonFiniteFactor."""
    pair = loaded.pair
    wide = pair.rank > min(pair.rows, pair.columns)
    return spectra.spectrum(loaded.blocks_A(expert), loaded.blocks_B(expert), wide=wide)


def measure_pair(pair: LoraPair, tau: float) -> Measured:
    """Rows of one pair: one, or one per expert. Raises InputError when the file cannot be read."""
    loaded = pair.load()
    rows, nonfinite = [], []
    layer, index = layer_of(pair.module)
    known: dict[str, Any] = {
        "name": pair.module,
        "module_type": module_type(pair.module, embedding=pair.kind == "embedding"),
        "family": family_of(pair.module),
        "layer": layer,
        "layer_index": index,
        "kind": pair.kind,
        "groups": pair.groups,
        "r": pair.rank,
        "declared_r": pair.declared_rank,
        "alpha": pair.alpha,
        "scale": pair.scale,
        "shape": (pair.rows, pair.columns),
        "params": pair.params // pair.experts,
        "bytes": pair.bytes // pair.experts,
        "dtype": type_names(pair.a.entry.dtype, pair.b.entry.dtype),
    }
    for expert in range(pair.experts):
        known["expert"] = expert if pair.kind == "expert" else None
        try:
            rows.append(_row(pair, spectrum_of(loaded, expert), tau, known))
        except spectra.NonFiniteFactor:
            for factor, words in ((pair.a, loaded.stored_A), (pair.b, loaded.stored_B)):
                bad = ~np.isfinite(decode(words))
                if bad.any():
                    first = [int(position) for position in np.argwhere(bad)[0]]
                    share = f"{int(bad.sum()):,} of {bad.size:,} values are NaN or infinite"
                    nonfinite.append(f"{factor.tensor}: {share}, the first at {first}")
            rows.append(LayerAudit(status="nonfinite", **known))
    return Measured(rows, list(dict.fromkeys(nonfinite)))


def _row(pair: LoraPair, measured: Spectrum, tau: float, known: dict[str, Any]) -> LayerAudit:
    if measured.error_bound >= 1:
        bound = measured.error_bound if math.isfinite(measured.error_bound) else None
        return LayerAudit(
            status="unsupported", method=measured.method, eta=measured.eta, error_bound=bound, **known
        )
    if measured.values[0] == 0.0:
        return LayerAudit(status="untrained", method=measured.method, **known)
    update = Update(measured.values, pair.rank, (pair.rows, pair.columns), tau)
    measures = {name: measure(update) for name, measure in MEASURES.items()}
    storage = _storage_error(pair, measured)
    sigma = measured.scaled(1.0 if pair.scale is None else pair.scale)
    # σ₁·√(stable rank) and not a sum of squares, which leaves the range of float64 at half the exponent.
    fro_norm = float(sigma[0]) * math.sqrt(update.stable_rank)
    has_norm = pair.scale is not None and math.isfinite(fro_norm)
    return LayerAudit(
        status="ok",
        **measures,
        borderline=measures["energy_margin"] <= storage + measured.energy_error + spectra.ENERGY_SLACK,
        sigma_max=float(sigma[0]) if has_norm else None,
        fro_norm=fro_norm if has_norm else None,
        singular_values=tuple(sigma.tolist()) if np.isfinite(sigma).all() else (),
        method=measured.method,
        eta=measured.eta,
        error_bound=measured.error_bound,
        storage_error=storage,
        **known,
    )


def _storage_error(pair: LoraPair, measured: Spectrum) -> float:
    """Return what rounding the factors to their storage type may have done to the stable rank (relative, at most 1).

    Where entries are as small as the type's smallest value (fp8), they were rounded to a fixed step, and whole
    directions may be gone. A typical figure and no bound: it assumes that no single entry dominates.
    """
    rounding, steps = [], []
    for factor, size in zip((pair.a, pair.b), measured.rms, strict=True):
        dtype = factor.entry.dtype
        steps.append(min(1.0, dtype.smallest / (2 * size)) if size > 0 else 1.0)
        rounding.append(dtype.unit_roundoff + steps[-1])
    average = STORAGE_SHARE * max(rounding) / math.sqrt(min(pair.rows, pair.columns))
    # The energy that the errors themselves add, and the energy that is gone, do not average out.
    return min(1.0, average + max(rounding) ** 2 + max(steps) ** 2)
