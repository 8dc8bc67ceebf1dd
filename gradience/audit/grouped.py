"""The spectrum of a grouped convolution, group by group: its B, (m, r), is 0 outside of a block for each group.

With B_g = Q_g R_g for each group, ΔW is the stack of Q_g (R_g A_g), and has the singular values of the stack of the
R_g A_g: min(m, r) rows of n columns, of which one QR remains. The r x r matrices of `spectra` would be zeros mostly,
and have gigabytes where a header of 12 kB claims 6,000 groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from gradience.adapters.adapter import BLOCK_ELEMENTS, LoadedPair
from gradience.adapters.dtypes import Words, decode
from gradience.spectra import (
    FloatArray,
    NonFiniteFactor,
    Spectrum,
    singular_values,
    spectrum_of_values,
    triangle,
    triangle_rounding,
)


def grouped_spectrum(loaded: LoadedPair) -> Spectrum:
    """Singular values of B·A of a grouped convolution. Raises NonFiniteFactor.

    η of the result is √Σ_g ‖A_g‖_F²‖B_g‖_F² / σ₁: the rounding of R_g·A_g is relative to it.
    """
    pair = loaded.pair
    width, height = pair.rank // pair.groups, pair.rows // pair.groups
    words_A = loaded.stored_A.reshape(pair.groups, width, pair.columns)
    words_B = loaded.stored_B.reshape(pair.groups, height, width)
    exponents = _exponent(words_A), _exponent(words_B)
    step = max(1, BLOCK_ELEMENTS // (width * (pair.columns + height)))
    sizes = np.zeros(3)
    """‖A‖_F², ‖B‖_F² and Σ ‖A_g‖_F²‖B_g‖_F², of the scaled factors."""

    def products() -> Iterator[FloatArray]:
        sizes[:] = 0.0
        for start in range(0, pair.groups, step):
            a = np.ldexp(decode(words_A[start : start + step]), -exponents[0])
            b = np.ldexp(decode(words_B[start : start + step]), -exponents[1])
            energies = np.square(a).sum(axis=(1, 2)), np.square(b).sum(axis=(1, 2))
            sizes[:] += energies[0].sum(), energies[1].sum(), (energies[0] * energies[1]).sum()
            reduced = b if height <= width else np.linalg.qr(b, mode="r")
            yield (reduced @ a).reshape(-1, pair.columns)

    core = triangle(products)
    values = singular_values(core.matrix)[: min(pair.rank, pair.rows, pair.columns)]
    if values[0] == 0.0:
        bound = math.inf if sizes[2] else 0.0  # the product has left the range of float64, or there is none
        return Spectrum(np.zeros(len(values)), 0, "qr", 1.0, bound, min(1.0, bound))
    eta = max(1.0, math.ldexp(math.sqrt(sizes[2]), -core.exponent) / float(values[0]))
    relative = 2 * triangle_rounding(max(width, pair.columns)) * eta
    rms = tuple(
        math.ldexp(math.sqrt(size / words.size), exponent)
        for size, words, exponent in zip(sizes[:2], (words_A, words_B), exponents, strict=True)
    )
    errors = np.full(len(values), relative)
    exponent = core.exponent + sum(exponents)
    return spectrum_of_values(
        values, exponent, "qr", eta, errors, 4 * len(values) * relative, (rms[0], rms[1])
    )


def _exponent(words: Words) -> int:
    """Exponent of the largest absolute entry; 0 where all are 0."""
    top, flat = 0.0, words.reshape(-1)
    for start in range(0, flat.size, BLOCK_ELEMENTS):
        largest = float(np.abs(decode(flat[start : start + BLOCK_ELEMENTS])).max())
        if not math.isfinite(largest):
            raise NonFiniteFactor
        top = max(top, largest)
    return math.frexp(top)[1]
