"""One module of an adapter -> its rows of the audit: status, measures, and how exact they are."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters.adapter import Factor, LoadedPair, LoraPair
from gradience.adapters.dtypes import decode, type_names
from gradience.adapters.families import family_of, layer_of, module_type
from gradience.audit.grouped import grouped_spectrum
from gradience.audit.measures import MEASURES, Update
from gradience.reports.audit import LayerAudit
from gradience.spectra import ENERGY_SLACK, NonFiniteFactor, Spectrum
from gradience.spectra import spectrum as spectrum_of

STORAGE_SHARE = 4.0
"""Relative change of the stable rank in unit roundoffs of the storage type over √min(m, n).

Rounding errors of the entries average out over the rows. Measured: 3.9 at most in normal ranges; see docs/measures.md
and benchmarks/storage_rounding.py.
"""


class Measured(NamedTuple):
    """The rows of one pair, and a sentence per factor that holds NaN or infinity."""

    rows: list[LayerAudit]
    nonfinite: list[str]


def measure_pair(pair: LoraPair, tau: float) -> Measured:
    """Rows of one pair: one, or one per expert. Raises InputError when the file cannot be read."""
    loaded = pair.load()
    rows, nonfinite = [], []
    wide = pair.rank > min(pair.rows, pair.columns)
    for expert in range(pair.experts):
        known = _known_before(pair, expert if pair.kind == "expert" else None)
        try:
            spectrum = (
                grouped_spectrum(loaded)
                if pair.groups > 1
                else spectrum_of(loaded.blocks_A(expert), loaded.blocks_B(expert), wide=wide)
            )
        except NonFiniteFactor:
            nonfinite += [
                sentence for factor in (pair.a, pair.b) if (sentence := _nonfinite_sentence(factor, loaded))
            ]
            rows.append(LayerAudit(status="nonfinite", **known))
            continue
        rows.append(_row(pair, spectrum, tau, known))
    return Measured(rows, list(dict.fromkeys(nonfinite)))


def _known_before(pair: LoraPair, expert: int | None) -> dict[str, Any]:
    """What is known of a module before its numbers are."""
    layer, index = layer_of(pair.module)
    return {
        "name": pair.module,
        "module_type": module_type(pair.module, embedding=pair.kind == "embedding"),
        "family": family_of(pair.module),
        "layer": layer,
        "layer_index": index,
        "kind": pair.kind,
        "expert": expert,
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


def _row(pair: LoraPair, spectrum: Spectrum, tau: float, known: dict[str, Any]) -> LayerAudit:
    if spectrum.error_bound >= 1:
        bound = spectrum.error_bound if math.isfinite(spectrum.error_bound) else None
        return LayerAudit(
            status="unsupported", method=spectrum.method, eta=spectrum.eta, error_bound=bound, **known
        )
    if spectrum.values[0] == 0.0:
        return LayerAudit(status="untrained", method=spectrum.method, **known)
    update = Update(spectrum.values, pair.rank, (pair.rows, pair.columns), tau)
    measures = {name: measure(update) for name, measure in MEASURES.items()}
    storage = _storage_error(pair, spectrum)
    sigma = spectrum.scaled(1.0 if pair.scale is None else pair.scale)
    # σ₁·√(stable rank) and not a sum of squares, which leaves the range of float64 at half the exponent.
    fro_norm = float(sigma[0]) * math.sqrt(update.stable_rank)
    has_norm = pair.scale is not None and math.isfinite(fro_norm)
    return LayerAudit(
        status="ok",
        **measures,
        borderline=measures["energy_margin"] <= storage + spectrum.energy_error + ENERGY_SLACK,
        sigma_max=float(sigma[0]) if has_norm else None,
        fro_norm=fro_norm if has_norm else None,
        singular_values=tuple(sigma.tolist()) if np.isfinite(sigma).all() else (),
        method=spectrum.method,
        eta=spectrum.eta,
        error_bound=spectrum.error_bound,
        storage_error=storage,
        **known,
    )


def _storage_error(pair: LoraPair, spectrum: Spectrum) -> float:
    """What rounding the factors to their storage type may have done to the stable rank (relative, at most 1).

    Where entries are as small as the type's smallest value (fp8), they were rounded to a fixed step, and whole
    directions may be gone. A typical figure and no bound: it assumes that no single entry dominates.
    """
    rounding, steps = [], []
    for factor, size in zip((pair.a, pair.b), spectrum.rms, strict=True):
        dtype = factor.entry.dtype
        steps.append(min(1.0, dtype.smallest / (2 * size)) if size > 0 else 1.0)
        rounding.append(dtype.unit_roundoff + steps[-1])
    average = STORAGE_SHARE * max(rounding) / math.sqrt(min(pair.rows, pair.columns))
    if pair.difference:  # the rounding is that of both products, which nearly cancel
        average *= spectrum.eta
        rounding = [each * spectrum.eta for each in rounding]
    # The energy that the errors themselves add, and the energy that is gone, do not average out.
    return min(1.0, average + max(rounding) ** 2 + max(steps) ** 2)


def _nonfinite_sentence(factor: Factor, loaded: LoadedPair) -> str | None:
    words = loaded.stored_A if factor is loaded.pair.a else loaded.stored_B
    bad = ~np.isfinite(decode(words))
    if not bad.any():
        return None
    where = [int(position) for position in np.argwhere(bad)[0]]
    return f"{factor.tensor}: {int(bad.sum()):,} of {bad.size:,} values are NaN or infinite, the first at {where}"
