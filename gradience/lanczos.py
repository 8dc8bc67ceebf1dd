"""‖W‖₂ of a matrix that is only multiplied with: Lanczos, with enough steps for a tolerance. numpy only, no I/O."""

import math
from collections.abc import Callable

import numpy as np

from gradience.spectra import FloatArray

TOLERANCE = 0.01
"""Relative: σ₁ is at most this much above what is returned."""
FAILURE = 1e-6
"""Probability, over the random start, that it is further above. What is returned is never above σ₁ but for rounding."""
SEED = 20261126


def steps_for(size: int, tolerance: float = TOLERANCE, failure: float = FAILURE) -> int:
    """Return how many steps suffice for a symmetric operator on vectors of this size.

    λ from k steps on a random start is below (1 − ε)·λ₁ with probability at most 1.648·√n·exp(−√ε·(2k − 1)); here
    λ = σ², so that ε = 1 − 1/(1 + tolerance)². Source: Kuczyński & Woźniakowski, SIAM J. Matrix Anal. Appl. 13(4),
    1992, theorem 4.2.
    """
    epsilon = 1 - (1 + tolerance) ** -2
    needed = (math.log(1.648 * math.sqrt(size) / failure) / math.sqrt(epsilon) + 1) / 2
    return min(size, math.ceil(needed))


def spectral_norm(apply: Callable[[FloatArray], FloatArray], size: int) -> float:
    """Return ‖W‖₂ from v ↦ WᵀW·v, within `TOLERANCE` below the truth (see `FAILURE`).

    >>> spectral_norm(lambda v: np.array([9.0, 4.0]) * v, 2)
    3.0

    apply: of a vector (size,), in float64. Vectors are kept orthogonal to all earlier ones.
    """
    start = np.random.default_rng(SEED).standard_normal(size)
    basis = [start / np.linalg.norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(steps_for(size)):
        image = apply(basis[-1])
        diagonal.append(float(basis[-1] @ image))
        known = np.stack(basis)
        image = image - known.T @ (known @ image)
        image = image - known.T @ (known @ image)  # twice is enough (Giraud et al. 2005)
        length = float(np.linalg.norm(image))
        if length <= np.finfo(np.float64).eps * max(map(abs, diagonal)):
            break  # what is left is rounding: the values are exact
        beside.append(length)
        basis.append(image / length)
    off = beside[: len(diagonal) - 1]
    projected = np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1)
    return float(np.sqrt(max(0.0, float(np.linalg.eigvalsh(projected)[-1]))))
