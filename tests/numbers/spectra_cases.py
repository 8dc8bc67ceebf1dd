"""Factors to measure spectra of, benign to hostile, and two oracles that know the singular values of B·A.

Everything is made from a seeded generator: a failing case is named by its family and its seed.
"""

from collections.abc import Callable

import mpmath
import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
"""A (r, n) and B (m, r)."""
Family = Callable[[np.random.Generator, int, int, int], Pair]
"""(generator, r, m, n) -> factors."""

EPS = float(np.finfo(np.float64).eps)


# ---------------------------------------------------------------- families


def orthonormal(rng, rows, rank):
    """(rows, rank) with orthonormal columns where rows ≥ rank, orthonormal rows otherwise."""
    if rows < rank:
        return orthonormal(rng, rank, rows).T
    return np.linalg.qr(rng.standard_normal((rows, rank)))[0]


def with_condition(rng, rows, rank, condition):
    """(rows, rank) whose singular values fall geometrically from 1 to 1/condition."""
    return (orthonormal(rng, rows, rank) * np.geomspace(1, 1 / condition, rank)) @ orthonormal(
        rng, rank, rank
    ).T


def from_spectrum(rng, r, m, n, sigma):
    """Factors of a matrix with the singular values `sigma`, split evenly and turned by a random rotation."""
    turn, root = orthonormal(rng, r, r), np.sqrt(sigma)
    return turn.T @ (orthonormal(rng, n, r) * root).T, (orthonormal(rng, m, r) * root) @ turn


def gaussian(rng, r, m, n):
    return rng.standard_normal((r, n)), rng.standard_normal((m, r))


def power_law(rng, r, m, n):
    return from_spectrum(rng, r, m, n, np.arange(1, r + 1.0) ** -rng.uniform(0.3, 3))


def clustered(rng, r, m, n):
    gap = 10.0 ** -rng.uniform(2, 14)
    return from_spectrum(rng, r, m, n, np.where(np.arange(r) < max(1, r // 2), 1.0, 1 - gap))


def graded(rng, r, m, n):
    return from_spectrum(rng, r, m, n, 10.0 ** -(rng.uniform(0.5, 3) * np.arange(r)))


def trained_from_zero(rng, r, m, n):
    """A as initialized plus little; B nearly one direction: what trained adapters look like."""
    B = rng.standard_normal((m, 1)) @ rng.standard_normal((1, r))
    return rng.uniform(-1, 1, (r, n)) / np.sqrt(n), B + 10.0 ** -rng.uniform(1, 8) * rng.standard_normal(
        (m, r)
    )


def rank_deficient(rng, r, m, n):
    """Small integers, so that the deficiency is exact."""
    true = rng.integers(1, r + 1)
    A = rng.integers(-3, 4, (r, true)) @ rng.integers(-3, 4, (true, n))
    return A.astype(float), rng.integers(-3, 4, (m, r)).astype(float)


def zero_columns(rng, r, m, n):
    A, B = gaussian(rng, r, m, n)
    A[rng.random(r) < 0.4] = 0
    B[:, rng.random(r) < 0.4] = 0
    return A, B


def duplicates(rng, r, m, n):
    """The same direction several times, as concatenated adapters have it."""
    A, B = gaussian(rng, r, m, n)
    return A[rng.integers(0, r, r)], B[:, rng.integers(0, r, r)]


def constant(rng, r, m, n):
    """All entries equal: every rounding error of a sum has the same sign."""
    return np.full((r, n), rng.uniform(0.1, 1)), np.full((m, r), rng.uniform(0.1, 1))


def heavy_tailed(rng, r, m, n):
    return rng.standard_cauchy((r, n)), rng.standard_cauchy((m, r))


def sparse(rng, r, m, n):
    A, B = gaussian(rng, r, m, n)
    return A * (rng.random(A.shape) < 0.1), B * (rng.random(B.shape) < 0.1)


def ill_conditioned(rng, r, m, n):
    """Both factors with condition numbers up to 1e8 that have nothing to do with each other."""
    exponents = rng.uniform(0, 8, 2)
    return with_condition(rng, n, r, 10.0 ** exponents[0]).T, with_condition(rng, m, r, 10.0 ** exponents[1])


def gauge(rng, r, m, n):
    """(GA, BG⁻¹): the update of well-conditioned factors, written with ill-conditioned ones."""
    A, B = gaussian(rng, r, m, n)
    left, right = orthonormal(rng, r, r), orthonormal(rng, r, r)
    stretch = np.geomspace(1, 10.0 ** rng.uniform(0, 8), r)
    return (left * stretch) @ (right.T @ A), (B @ right / stretch) @ left.T


def canceling(rng, r, m, n):
    """Two halves that nearly cancel: B·A is much smaller than its factors."""
    half = max(1, r // 2)
    A, B = gaussian(rng, half, m, n)
    near = A + 10.0 ** -rng.uniform(1, 6) * rng.standard_normal(A.shape)
    return np.vstack([A, near])[:r], np.hstack([B, -B])[:, :r]


def equal_sigmas(rng, r, m, n):
    """r equal singular values, exactly: k/r of the energy in k directions, right on the thresholds for r = 10."""
    return np.eye(r, max(r, n))[:, :n], np.eye(max(r, m), r)[:m]


def unequal_columns(rng, r, m, n):
    """Columns of very different length in one factor, made up for in the other."""
    A, B = gaussian(rng, r, m, n)
    powers = rng.integers(-12, 13, r)
    return np.ldexp(A, powers[:, None]), np.ldexp(B, -powers)


def scaled(family: Family, power_A: float, power_B: float) -> Family:
    """`family` with factors of another size: 10^power."""

    def make(rng, r, m, n):
        A, B = family(rng, r, m, n)
        return A * 10.0**power_A, B * 10.0**power_B

    return make


def stored(family: Family, dtype: str) -> Family:
    """`family` as float32 or float16 keep it."""

    def make(rng, r, m, n):
        A, B = family(rng, r, m, n)
        return A.astype(dtype).astype(float), B.astype(dtype).astype(float)

    return make


BENIGN: dict[str, Family] = {
    "gaussian": gaussian,
    "power-law": power_law,
    "clustered": clustered,
    "trained": trained_from_zero,
    "constant": constant,
    "sparse": sparse,
    "heavy-tailed": heavy_tailed,
    "fp32": stored(power_law, "float32"),
    "fp16": stored(gaussian, "float16"),
    "equal": equal_sigmas,
}
"""Dense SVDs in float64 are right to a few ε·σ₁ here."""

HOSTILE: dict[str, Family] = {
    "graded": graded,
    "rank-deficient": rank_deficient,
    "zero-columns": zero_columns,
    "duplicates": duplicates,
    "ill-conditioned": ill_conditioned,
    "gauge": gauge,
    "canceling": canceling,
    "unequal-columns": unequal_columns,
    "scale-1e-30": scaled(gaussian, 0, -30),
    "scale-1e+19": scaled(power_law, 19, 19),
    "scale-1e-200": scaled(ill_conditioned, -200, -200),
    "scale-1e+150": scaled(gaussian, 150, 150),
    "opposite-scales": scaled(gauge, 200, -200),
    "denormal-fp32": stored(scaled(gaussian, 0, -40), "float32"),
    "denormal-fp64": scaled(gaussian, 0, -312),
}


# ---------------------------------------------------------------- oracles


def exact_singular_values(A: np.ndarray, B: np.ndarray, exponent: int = 0) -> np.ndarray:
    """The min(r, m, n) singular values of B·A · 2^-exponent, correctly rounded to float64.

    In 60 digits: σ² are the eigenvalues of √G_A·G_B·√G_A. Squaring halves the digits, so the work is done in 130.
    """
    with mpmath.workdps(130):
        energies, vectors = mpmath.eigsy(_exact_gram(A.T))
        root = vectors * mpmath.diag([mpmath.sqrt(max(energy, 0)) for energy in energies])
        eigenvalues = mpmath.eigsy(root.T * _exact_gram(B) * root, eigvals_only=True)
        sigma = [mpmath.ldexp(mpmath.sqrt(max(energy, 0)), -exponent) for energy in eigenvalues]
        ordered = sorted((float(value) for value in sigma), reverse=True)
    return np.array(ordered[: min(A.shape[0], A.shape[1], B.shape[0])])


def _exact_gram(X: np.ndarray) -> mpmath.matrix:
    columns = [[mpmath.mpf(float(value)) for value in column] for column in X.T]
    gram = mpmath.matrix(len(columns), len(columns))
    for i, left in enumerate(columns):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = mpmath.fdot(left, columns[j])
    return gram


def dense_singular_values(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """The same from LAPACK's SVD of the (m, n) product, in float64."""
    count = min(A.shape[0], A.shape[1], B.shape[0])
    return np.linalg.svd(B @ A, compute_uv=False)[:count]
