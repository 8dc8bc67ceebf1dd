"""Stable rank of B·A with random Gaussian factors. numpy only, no I/O.

A reference for trained spectra: a module close to it was hardly trained, or needs every direction.
"""

from functools import lru_cache
from threading import Lock

import numpy as np

from gradience.spectra import FloatArray, singular_values

SIMULATED = PROBED = 128
"""Side up to which it is simulated, and of the smaller factors that larger ones are compared with."""
WIDE = 8
"""Times the smaller side from which a rank changes places with it: its triangles would have gigabytes at r = 6,000."""
_ONE_AT_A_TIME = Lock()


def null_stable_rank(rank: int, rows: int, columns: int) -> float:
    """Mean stable rank of B·A for Gaussian factors B (rows, rank) and A (rank, columns): what "random" looks like.

    Simulated (fixed seed) up to a side of 128. Beyond, if that would cost more than the module's own spectrum, it is
    the value of infinitely large factors, and the distance of finite ones from it is measured on smaller factors of the
    same proportions: it shrinks as side^(−2/3) (Tracy & Widom 1996). Within 1 % of a simulation at 512.
    """
    # B·Q is Gaussian for A = Q·R, so the three sides may change places: the smallest needs the smallest triangles.
    if rank > WIDE * min(rows, columns):
        rank, rows, columns = min(rows, columns), rank, max(rows, columns)
    with _ONE_AT_A_TIME:  # modules of one shape are measured side by side, and need it once
        size = min(rank, rows, columns)
        if size <= SIMULATED:
            return _simulated(rank, rows, columns)
        r, m, n = (round(side * PROBED / size) for side in (rank, rows, columns))
        distance = _simulated(r, m, n) / _limit(r, m, n) - 1
        return _limit(rank, rows, columns) * float(1 + distance * (PROBED / size) ** (2 / 3))


def _limit(rank: int, rows: int, columns: int) -> float:
    """Stable rank of B·A, in the limit in which all three sides grow in proportion.

    With S(z) = 1/((1 + z·rank/rows)·(1 + z·rank/columns)) the largest eigenvalue of BᵀB·AAᵀ is the smallest value of
    (1 + z)/(z·S(z)) in units of the mean one. Source: Voiculescu, J. Operator Theory 18, 1987 (S-transform).
    """
    left, right = rank / rows, rank / columns
    candidates = np.roots([2 * left * right, left + right + left * right, 0.0, -1.0])
    z = float(max(candidates.real[np.abs(candidates.imag) < 1e-9]))
    return rank * z / ((1 + z) * (1 + left * z) * (1 + right * z))


@lru_cache(maxsize=4096)
def _simulated(rank: int, rows: int, columns: int) -> float:
    """The mean over draws on r x r triangles (Bartlett's decomposition of Wishart matrices: independent normals above
    the diagonal, chi with falling degrees of freedom on it), which is exact in distribution.
    """
    generator = np.random.default_rng([rank, rows, columns])
    draws = int(np.clip(max(2048 // rank, 16384 // rank**2), 4, 512))
    left, right = _bartlett(generator, draws, rank, rows), _bartlett(generator, draws, rank, columns)
    energies = np.square(singular_values(left @ right.swapaxes(1, 2)))
    return float((energies.sum(axis=1) / energies[:, 0]).mean())


def _bartlett(generator: np.random.Generator, draws: int, rank: int, rows: int) -> FloatArray:
    """R of the QR of Gaussian (rows, rank) matrices, up to signs: (draws, min(rows, rank), rank)."""
    height = min(rows, rank)
    upper = generator.standard_normal((draws, height, rank))
    upper *= np.triu(np.ones((height, rank)), 1)
    step = np.arange(height)
    upper[:, step, step] = np.sqrt(generator.chisquare(rows - step, (draws, height)))
    return upper
