"""The best smaller factors of B·A, and the distance between two products, in r-space. numpy only, no I/O.

Shapes as in `spectra`: A (r, n), B (m, r); factors come as tall float64 blocks (k, r) of Aᵀ and of B.
ΔW is never formed: all that is decided is decided on r x r matrices, and the new factors are small linear
maps of the old ones, A′ = T_A·A and B′ = B·T_B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradience.spectra import (
    EPS,
    GRAM_TOLERANCE,
    Blocks,
    Core,
    FloatArray,
    Method,
    gram,
    spectrum,
    spectrum_from_grams,
    triangle,
    with_exponent,
)

MAX_CONDITION = 1e4
"""Largest (bound on the) condition number κ of A for which the gram route inverts its Cholesky factor.

The basis it makes of A's rows is orthonormal to ε·κ² only, and the truncation optimal to as much.
"""


@dataclass(frozen=True, slots=True)
class Truncation:
    """Maps that turn A and B into the factors of the best rank-k approximation of B·A, balanced.

    map_A: (k, r), A′ = map_A·A.   map_B: (r, k), B′ = B·map_B.   A′A′ᵀ = B′ᵀB′ = diag(σ₁ … σ_k).
    values: all singular values of B·A, descending, as values · 2^exponent.
    gram_A, gram_B: AAᵀ and BᵀB, found on the way.
    """

    map_A: FloatArray
    map_B: FloatArray
    values: FloatArray
    exponent: int
    method: Method
    gram_A: Core
    gram_B: Core


def truncation(blocks_A: Blocks, blocks_B: Blocks, rank: int) -> Truncation:
    """Best rank-`rank` approximation of B·A in the Frobenius and the spectral norm (Eckart & Young 1936).

    Where B·A has a lower rank than asked for, the surplus rows and columns of the maps are 0. Where a factor is 0
    (nothing was trained), the leading components are kept as they are, so that training can go on.
    Raises NonFiniteFactor.
    """
    gram_A, gram_B = gram(blocks_A), gram(blocks_B)
    if not gram_A.matrix.any() or not gram_B.matrix.any():
        leading = np.eye(rank, gram_A.matrix.shape[0])
        return Truncation(leading, leading.T, np.zeros(rank), 0, "gram", gram_A, gram_B)
    # A factor with more columns than rows has a singular Gram matrix, which rounding can hide from Cholesky.
    wide = gram_A.matrix.shape[0] > min(gram_A.rows, gram_B.rows)
    cheap = None if wide else spectrum_from_grams(gram_A, gram_B)
    if cheap is not None and cheap.error_bound <= GRAM_TOLERANCE and cheap.values[0] > 0:
        maps = _from_grams(gram_A, gram_B, rank)
        if maps is not None:
            return _truncation(maps, gram_A, gram_B, rank, "gram")
    maps = _from_triangles(triangle(blocks_A), triangle(blocks_B), rank)
    return _truncation(maps, gram_A, gram_B, rank, "qr")


def projection(blocks_A: Blocks, blocks_B: Blocks, p: FloatArray, q: FloatArray) -> Truncation:
    """B·p·qᵀ·A as a truncation: the maps are given, and values, norms and Gram matrices are those of B·A.

    p, q: (r, k). Raises NonFiniteFactor.
    """
    gram_A, gram_B = gram(blocks_A), gram(blocks_B)
    whole = spectrum(blocks_A, blocks_B, wide=gram_A.matrix.shape[0] > min(gram_A.rows, gram_B.rows))
    return Truncation(q.T, p, whole.values, whole.exponent, whole.method, gram_A, gram_B)


class _Maps(NamedTuple):
    """Maps of the normalised factors, the singular values of their product, and their exponents."""

    map_A: FloatArray
    map_B: FloatArray
    values: FloatArray
    exponent_A: int
    exponent_B: int


def _from_grams(gram_A: Core, gram_B: Core, rank: int) -> _Maps | None:
    """With AAᵀ = LLᵀ and Lᵀ(BᵀB)L = WΛWᵀ: σ² = Λ, A′ = σ^½WᵀL⁻¹·A, B′ = B·LWσ^{−½}."""
    lower = np.linalg.cholesky(gram_A.matrix)
    inverse = np.linalg.inv(lower)
    # Of the Frobenius norms, which bound the condition number from above and need no singular values.
    if np.linalg.norm(lower) * np.linalg.norm(inverse) > MAX_CONDITION:
        return None
    energies, vectors = np.linalg.eigh(lower.T @ gram_B.matrix @ lower)
    values = np.sqrt(energies[::-1].clip(min=0.0))
    root, inverse_root = _roots(values, rank)
    kept = vectors[:, ::-1][:, : len(root)]
    return _Maps(
        (kept * root).T @ inverse, lower @ (kept * inverse_root), values, gram_A.exponent, gram_B.exponent
    )


def _from_triangles(triangle_A: Core, triangle_B: Core, rank: int) -> _Maps:
    """With R_B·R_Aᵀ = UΣVᵀ: A′ = Σ^{−½}UᵀR_B·A and B′ = B·R_AᵀVΣ^{−½}; no inverse of a triangle is needed."""
    left, values, right = np.linalg.svd(triangle_B.matrix @ triangle_A.matrix.T)
    root, inverse_root = _roots(values, rank)
    map_A = (left[:, : len(root)] * inverse_root).T @ triangle_B.matrix
    map_B = triangle_A.matrix.T @ (right[: len(root)].T * inverse_root)
    return _Maps(map_A, map_B, values, triangle_A.exponent, triangle_B.exponent)


def _roots(values: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """√σ and 1/√σ of the leading values; 0 and 0 where σ is only rounding noise."""
    kept = values[:rank]
    real = kept > 8 * EPS * (values[0] if len(values) else 0.0)
    root = np.where(real, np.sqrt(kept), 0.0)
    return root, np.divide(1.0, root, out=np.zeros_like(root), where=real)


def _truncation(maps: _Maps, gram_A: Core, gram_B: Core, rank: int, method: Method) -> Truncation:
    """Undo the powers of two that were taken out of the factors, and pad to `rank` with zeros."""
    shift = 2.0 ** ((maps.exponent_B - maps.exponent_A) / 2)  # √2 is no harm: only the product must be exact
    map_A, map_B = maps.map_A * shift, maps.map_B / shift
    short = rank - map_A.shape[0]
    if short:
        map_A, map_B = np.pad(map_A, ((0, short), (0, 0))), np.pad(map_B, ((0, 0), (0, short)))
    # The exponents of the two routes may differ by one: the values keep theirs.
    return Truncation(map_A, map_B, maps.values, maps.exponent_A + maps.exponent_B, method, gram_A, gram_B)


def frobenius(triangle_A: Core, triangle_B: Core) -> float:
    """‖B·A‖_F from the R factors of Aᵀ and B: accurate also where the product nearly cancels."""
    core = triangle_B.matrix @ triangle_A.matrix.T
    return with_exponent(float(np.linalg.norm(core)), triangle_A.exponent + triangle_B.exponent)


def norm_from_grams(gram_A: Core, gram_B: Core) -> float:
    """‖B·A‖_F = √tr(AAᵀ·BᵀB): cheaper, and right where the factors do not cancel."""
    energy = max(0.0, float((gram_A.matrix * gram_B.matrix).sum()))
    return with_exponent(math.sqrt(energy), gram_A.exponent + gram_B.exponent)


def cancellation(gram_A: Core, gram_B: Core, norm: float) -> float:
    """‖A‖_F·‖B‖_F/‖B·A‖_F, at least 1; `norm` is ‖B·A‖_F. Infinite where nothing is left of the product."""
    sizes = math.sqrt(float(gram_A.matrix.trace()) * float(gram_B.matrix.trace()))
    whole = with_exponent(sizes, gram_A.exponent + gram_B.exponent)
    if not whole:
        return 1.0
    return max(1.0, whole / norm) if norm else math.inf
