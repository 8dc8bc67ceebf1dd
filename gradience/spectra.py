"""Singular values and components of s·B·A in r-space, measures on them, and error bounds. numpy only, no I/O.

Shapes: r = allocated rank, n = in features, m = out features; A is (r, n), B is (m, r), ΔW = s·B·A is (m, n).
A *factor* is passed as tall float64 blocks of r columns: the rows of B, or the columns of A.
ΔW is never formed: everything below is r x r.

Two routes lead to the singular values.

`gram`  σ² are the eigenvalues of Lᵀ(BᵀB)L, where AAᵀ = LLᵀ. One matrix product per factor: fast. A
        relative error ε in the products changes every σ² by at most ε·η²·σ₁², with
        η = ‖A‖₂‖B‖₂/σ₁ (Weyl's inequality): harmless for the large σ, a floor of √ε·η·σ₁ for the small.
`qr`    σ are the singular values of R_B·R_Aᵀ with A = (Q_A R_A)ᵀ, B = Q_B R_B (Chan, TOMS 8(1), 1982).
        Several times slower, and every σ is right to about ε·η·σ₁.

The gram route is taken if its own bound on the measures stays below `GRAM_TOLERANCE`; otherwise qr.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, reduce
from threading import Lock
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Blocks = Callable[[], Iterable[FloatArray]]
"""Makes the blocks of one factor, (k, r) each, from the start; called again when a second pass is needed."""

Method = Literal["gram", "qr"]

LARGEST_SHIFT = 900
"""Largest shift of `balance`: multiplied by a scale of 1e30, the result is still finite."""
EPS = float(np.finfo(np.float64).eps)
GRAM_TOLERANCE = 1e-7
"""Largest bound of a measure's relative error that the gram route may have: a thousandth of what storage in bf16 costs.

At 1e-8 modules of r = 512 took the other route, 16 times slower (benchmarks/audit_cost.py)."""
ENERGY_SLACK = 1e-9
"""An energy within this distance of a threshold counts as reaching it: ten equal σ hold 90 % in nine."""


class NonFiniteFactor(ValueError):
    """A factor holds NaN or infinity, so it has no spectrum."""


@dataclass(frozen=True, slots=True)
class Core:
    """One factor reduced to r x r, and the power of two taken out: the factor's own is `matrix · 2^exponent`.

    For the gram route `matrix` is XᵀX (exponent counts once per X), for the qr route the triangle R.
    """

    matrix: FloatArray
    exponent: int
    rows: int
    """Rows of the factor: n for A, m for B. They enter the error bound."""
    flushed: bool = False
    """True for columns so far below the largest that scaling may have turned them into zeros."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values of B·A, descending, as `values · 2^exponent` so that no scale overflows.

    values: (min(r, m, n),), values[0] is in [0.5, 1) or everything is 0.
    error_bound: relative error of stable rank, effective rank and σ₁. From 1 on nothing is known: what is left of
    B·A is smaller than the rounding of its factors. Infinite if even that underflows.
    energy_error: absolute error of an energy fraction Σ_{i≤k}σ²/Σσ².
    rms: root mean square of the entries of A and of B; it tells how much storage rounding matters.
    """

    values: FloatArray
    exponent: int
    method: Method
    eta: float
    error_bound: float
    energy_error: float
    rms: tuple[float, float] = (0.0, 0.0)

    def scaled(self, scale: float = 1.0) -> FloatArray:
        """|scale|·σ as plain floats (0 or inf where float64 ends)."""
        with np.errstate(over="ignore", under="ignore"):
            return np.ldexp(self.values * abs(scale), self.exponent)


def array_blocks(factor: FloatArray, block: int = 4096) -> Blocks:
    """Blocks of a factor that already is a tall (rows, r) float64 array."""

    return lambda: (factor[rows] for rows in row_blocks(len(factor), block))


def row_blocks(rows: int, height: int) -> Iterator[slice]:
    """Yield the blocks of `height` rows, at least 1, that a matrix of `rows` rows is worked on in."""
    return (slice(start, start + max(1, height)) for start in range(0, rows, max(1, height)))


def joined(left: Blocks, right: Blocks, left_scale: float = 1.0, right_scale: float = 1.0) -> Blocks:
    """Blocks of [left_scale·X, right_scale·Y]; both factors must come in blocks of the same heights."""

    def blocks() -> Iterator[FloatArray]:
        for first, second in zip(left(), right(), strict=True):
            yield np.hstack([left_scale * first, right_scale * second])

    return blocks


def balance(blocks_A: Blocks, blocks_B: Blocks) -> tuple[float, float]:
    """Powers of two, 2^k and 2^-k, that bring A and B to about one size. Raises NonFiniteFactor.

    Beside another pair, A × 1e300 and B × 1e-300 would leave float64 although their product does not.
    """
    (size_A, _), (size_B, _) = _peak_exponent(blocks_A()), _peak_exponent(blocks_B())
    shift = max(-LARGEST_SHIFT, min(LARGEST_SHIFT, (size_B - size_A) // 2))
    return math.ldexp(1.0, shift), math.ldexp(1.0, -shift)


def with_exponent(value: float, exponent: int) -> float:
    """value · 2^exponent: infinite or 0 where float64 ends (math.ldexp would raise)."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value, exponent))


# ---------------------------------------------------------------- one factor -> r x r


def gram(blocks: Blocks) -> Core:
    """XᵀX of one factor, scaled by a power of two so that its largest diagonal entry is in [0.25, 1).

    Raises NonFiniteFactor. An all-zero factor gives an all-zero matrix.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        matrix, rows = _accumulate(blocks())
        exponent = 0
        top = float(matrix.diagonal().max(initial=0.0))
        # Squares of float64 factors may leave the range of float64 although the factors do not.
        if not 1e-200 < top < 1e200:
            exponent, _ = _peak_exponent(blocks())
            matrix, rows = _accumulate(np.ldexp(block, -exponent) for block in blocks())
            top = float(matrix.diagonal().max(initial=0.0))
    if top == 0.0:
        return Core(matrix, 0, rows)
    shift = (math.frexp(top)[1] + 1) // 2
    return Core(np.ldexp(matrix, -2 * shift), exponent + shift, rows)


def triangle(blocks: Blocks) -> Core:
    """R of X = QR, scaled by a power of two. Raises NonFiniteFactor.

    The triangles of the blocks are merged like the runs of a merge sort: each passes through log₂(blocks) mergers.
    Folding block after block into one triangle instead adds up their errors (1,300 ε against 74 ε, measured).
    """
    exponent, flushed = _peak_exponent(blocks())
    levels: list[FloatArray | None] = []
    rows = 0
    for block in blocks():
        rows += block.shape[0]
        upper, level = _upper(np.ldexp(block, -exponent)), 0
        while level < len(levels) and (waiting := levels[level]) is not None:
            upper, levels[level], level = _upper(np.vstack([waiting, upper])), None, level + 1
        levels[level : level + 1] = [upper]
    merged = [upper for upper in levels if upper is not None]
    if not merged:
        raise ValueError("a factor without blocks has no triangle")
    return Core(reduce(lambda upper, more: _upper(np.vstack([more, upper])), merged), exponent, rows, flushed)


def _upper(block: FloatArray) -> FloatArray:
    return np.asarray(np.linalg.qr(block, mode="r"), dtype=np.float64)


def _accumulate(blocks: Iterable[FloatArray]) -> tuple[FloatArray, int]:
    """Sum the Gram matrices of the blocks, in float64 even for float32 blocks."""
    total: FloatArray | None = None
    rows = 0
    for block in blocks:
        rows += block.shape[0]
        product = block.T @ block
        total = product.astype(np.float64, copy=False) if total is None else np.add(total, product, out=total)
    if total is None:
        raise ValueError("a factor without blocks has no Gram matrix")
    return total, rows


def _peak_exponent(blocks: Iterable[FloatArray]) -> tuple[int, bool]:
    """Exponent of the largest absolute entry (0 for an all-zero factor), and whether a column is 2^1000 below it."""
    peaks = reduce(np.maximum, (np.abs(block).max(axis=0, initial=0.0) for block in blocks), np.zeros(1))
    top = float(peaks.max(initial=0.0))
    if not math.isfinite(top):
        raise NonFiniteFactor
    exponent = math.frexp(top)[1]
    return exponent, bool((peaks[peaks > 0] < math.ldexp(1.0, max(exponent - 1000, -1074))).any())


# ---------------------------------------------------------------- r x r -> spectrum


def spectrum(blocks_A: Blocks, blocks_B: Blocks, *, wide: bool = False) -> Spectrum:
    """Singular values of B·A by the cheaper route whose error bound allows it.

    wide: r exceeds m or n. Then a Gram matrix is singular and larger than it need be: straight to qr, whose
    triangles have min(rows, r) rows.
    Raises NonFiniteFactor.
    """
    if wide:
        return spectrum_from_triangles(triangle(blocks_A), triangle(blocks_B))
    cheap = spectrum_from_grams(gram(blocks_A), gram(blocks_B))
    if cheap is not None and cheap.error_bound <= GRAM_TOLERANCE:
        return cheap
    return spectrum_from_triangles(triangle(blocks_A), triangle(blocks_B))


def spectrum_from_grams(gram_A: Core, gram_B: Core) -> Spectrum | None:
    """Singular values of B·A from AAᵀ and BᵀB, or None if AAᵀ has no Cholesky factor and B·A ≠ 0."""
    if not gram_A.matrix.any() or not gram_B.matrix.any():
        count = min(gram_A.matrix.shape[0], gram_A.rows, gram_B.rows)
        return Spectrum(np.zeros(count), 0, "gram", 1.0, 0.0, 0.0)
    try:
        lower = np.linalg.cholesky(gram_A.matrix)
    except np.linalg.LinAlgError:
        return None
    return spectrum_of_energies(np.linalg.eigvalsh(lower.T @ gram_B.matrix @ lower), gram_A, gram_B)


def spectrum_of_energies(energies: FloatArray, gram_A: Core, gram_B: Core) -> Spectrum | None:
    """Return the spectrum from the eigenvalues of Lᵀ(BᵀB)L, ascending; None if the largest is 0."""
    count = min(gram_A.matrix.shape[0], gram_A.rows, gram_B.rows)
    energies = energies[::-1][:count].clip(min=0.0)
    top = float(energies[0])
    if top == 0.0:
        return None
    eta = math.sqrt(_norm_bound(gram_A.matrix) * _norm_bound(gram_B.matrix) / top)
    # |δσ²| ≤ relative · σ₁²: the rounding of both products and of the eigenproblem.
    relative = _gram_rounding(gram_A, gram_B) * eta * eta
    values = np.sqrt(energies)
    unit = values / values[0]
    with np.errstate(divide="ignore"):
        errors = np.minimum(math.sqrt(relative), relative / unit)
    norms = math.sqrt(gram_A.matrix.trace()), math.sqrt(gram_B.matrix.trace())
    rms = _entry_size(gram_A, norms[0]), _entry_size(gram_B, norms[1])
    exponent = gram_A.exponent + gram_B.exponent
    return spectrum_of_values(values, exponent, "gram", eta, errors, 2 * count * relative, rms)


def spectrum_from_triangles(triangle_A: Core, triangle_B: Core) -> Spectrum:
    """Singular values of B·A from the R factors of Aᵀ and B."""
    count = min(triangle_A.matrix.shape[1], triangle_A.rows, triangle_B.rows)
    core = triangle_B.matrix @ triangle_A.matrix.T
    values = singular_values(core)[:count]
    if not len(values) or values[0] == 0.0:
        # Exactly 0 only if no direction is shared; otherwise the product has left the range of float64.
        shared = triangle_A.matrix.any(axis=0) & triangle_B.matrix.any(axis=0)
        lost = bool(shared.any()) or triangle_A.flushed or triangle_B.flushed
        bound = math.inf if lost else 0.0
        return Spectrum(np.zeros(count), 0, "qr", 1.0, bound, min(1.0, bound))
    norms = np.linalg.norm(triangle_A.matrix, 2) * np.linalg.norm(triangle_B.matrix, 2)
    eta = max(1.0, float(norms / values[0]))
    relative = triangle_rounding(triangle_A.matrix.shape[1]) * eta
    errors = np.full(len(values), relative)
    exponent = triangle_A.exponent + triangle_B.exponent
    sizes = np.linalg.norm(triangle_A.matrix), np.linalg.norm(triangle_B.matrix)
    rms = _entry_size(triangle_A, float(sizes[0])), _entry_size(triangle_B, float(sizes[1]))
    return spectrum_of_values(values, exponent, "qr", eta, errors, 4 * count * relative, rms)


def singular_values(core: FloatArray) -> FloatArray:
    """Singular values of a matrix, or of a stack of them, descending."""
    return np.asarray(np.linalg.svd(core, compute_uv=False), dtype=np.float64)


def _entry_size(factor: Core, norm: float) -> float:
    """Root mean square of a factor's entries, from the Frobenius norm of what it was reduced to."""
    return math.ldexp(norm / math.sqrt(factor.rows * factor.matrix.shape[1]), factor.exponent)


def _norm_bound(gram_matrix: FloatArray) -> float:
    """Upper bound of ‖X‖₂² from XᵀX: the smaller of its trace and its largest absolute row sum."""
    return min(float(gram_matrix.trace()), float(np.abs(gram_matrix).sum(axis=1).max()))


def _gram_rounding(gram_A: Core, gram_B: Core) -> float:
    """ε of the gram route. Rounding in a sum of k products grows like √k when signs are random.

    When they are not (all entries equal), blocks of at most 4,096 rows keep it below 48 ε a factor: kernels for AVX-512
    add 384 terms in a row and come to 38 ε, others stay below 32 ε. 2 · 48 ε is within the sum below from 64 rows on,
    and fewer rows cannot lose half as much.
    The constants here and below are measured with a margin and checked in tests/numbers/test_spectra.py.
    Source: Higham, Accuracy and Stability of Numerical Algorithms, SIAM 2002, §3.
    """
    longest = max(gram_A.rows, gram_B.rows)
    return (2 * math.sqrt(longest) + 16 * math.sqrt(gram_A.matrix.shape[0]) + 64) * EPS


def triangle_rounding(rank: int) -> float:
    """ε of the qr route: at most 74 ε for each triangle, and 61 ε for LAPACK's values-only SVD of tight clusters."""
    return (16 * math.sqrt(rank) + 256) * EPS


def spectrum_of_values(
    values: FloatArray,
    exponent: int,
    method: Method,
    eta: float,
    errors: FloatArray,
    energy_error: float,
    rms: tuple[float, float],
) -> Spectrum:
    """Normalize to values[0] in [0.5, 1) and turn errors of σ (in units of σ₁) into one bound for the measures."""
    shift = math.frexp(float(values[0]))[1]
    values = np.ldexp(values, -shift)
    bound = max(
        float(errors[0]),
        energy_error / stable_rank(values) + 2 * float(errors[0]),
        _entropy_error(values / values[0], errors),
    )
    return Spectrum(values, exponent + shift, method, eta, bound, min(1.0, energy_error), rms)


def _entropy_error(unit: FloatArray, errors: FloatArray) -> float:
    """Bound of |δH| = relative error of exp(H), for σ/σ₁ = `unit` known to within `errors`.

    |δH| ≤ Σ (|ln p| + H + 1)·δp with p = σ/Σσ; if p is below its own error, the error takes its place
    in the logarithm, because -p·ln p has no bounded slope at 0.
    """
    total = float(unit.sum())
    p, error = unit / total, errors / total
    logs = np.abs(np.log(np.maximum(np.maximum(p, error), np.finfo(np.float64).tiny)))
    return float(((logs + math.log(len(p)) + 1.0) * error).sum())


# ---------------------------------------------------------------- measures


def stable_rank(values: FloatArray) -> float:
    """Σσ²/σ₁²: 1 for one direction, r for r equal ones. Needs values[0] > 0.

    values: (k,), descending. Source: Rudelson & Vershynin, "Sampling from large matrices", JACM 54(4), 2007.
    """
    return float(np.square(values / values[0]).sum())


def effective_rank(values: FloatArray) -> float:
    """exp(-Σ p ln p) with p = σ/Σσ. Needs values[0] > 0.

    values: (k,). Source: Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    p = values / values[0]
    p = p / p.sum()
    p = p[p > 0]
    return float(math.exp(-(p * np.log(p)).sum()))


def cumulative_energy(values: FloatArray) -> FloatArray:
    """Σ_{i≤k}σ²/Σσ² for k = 1 … len(values). Needs values[0] > 0."""
    held: FloatArray = np.square(values / values[0]).cumsum()
    fractions: FloatArray = np.minimum(held / held[-1], 1.0)
    return fractions


def energy_rank(values: FloatArray, tau: float) -> int:
    """Smallest k with Σ_{i≤k}σ² ≥ τ·Σσ² (to within ENERGY_SLACK). Needs values[0] > 0; 0 < τ ≤ 1."""
    return rank_that_holds(cumulative_energy(values), tau)


def rank_that_holds(held: FloatArray, tau: float) -> int:
    """The same from the `cumulative_energy`, for several τ."""
    return int((held < tau - ENERGY_SLACK).sum()) + 1


def energy_margin(values: FloatArray, taus: Iterable[float]) -> float:
    """Smallest distance between a threshold and the energy held at or just below its rank.

    A margin smaller than the error of the energies means that the energy rank could as well be one more or less.
    """
    held = cumulative_energy(values)
    return min(float(np.abs(held[:-1] - tau).min(initial=1.0)) for tau in taus)


def lost_energy(energies: FloatArray, rank: int) -> float:
    """Σ_{i>k} of `energies` (σ², descending): what a truncation to `rank` leaves out; at rank 0 all of it.

    Summed from the small end: a difference of large sums would cancel.
    """
    return float(energies[rank:][::-1].sum())


def relative_error(lost: float, total: float) -> float | None:
    """√(lost/total) = ‖ΔW − ΔW′‖_F/‖ΔW‖_F of an update whose energy is `total`; None if there is no update.

    Of the best approximation of rank k it is √(1 − Σ_{i≤k}σ²/Σσ²). Source: Eckart & Young, Psychometrika 1(3), 1936.
    """
    return math.sqrt(lost / total) if total else None


def error_of_all(updates: Iterable[tuple[float, float]]) -> float:
    """√(Σ(e·n)²/Σn²) of several updates, each with its norm n and its relative error e; 0 if there is no update.

    >>> error_of_all([(3.0, 0.0), (4.0, 0.5)])
    0.4
    """
    rows = list(updates)
    # Relative to the largest norm: squares of norms beyond 1e154 would overflow.
    peak = max((norm for norm, _ in rows), default=0.0) or 1.0
    total = math.fsum((norm / peak) ** 2 for norm, _ in rows)
    lost = math.fsum((error * norm / peak) ** 2 for norm, error in rows)
    return relative_error(lost, total) or 0.0


# ---------------------------------------------------------------- components of B·A
#
# A component is a pair p, q of vectors (r,) that represents B·p·qᵀ·A. Those of one basis fulfil qᵢᵀpⱼ = δᵢⱼ: keeping
# the set K of them turns B·A into B·P·A with the projection P = Σ_K p·qᵀ.
#
# A weight on what goes in or comes out is given as a square root: a matrix X with r columns, where XᵀX = E[hhᵀ] for the
# inputs' side (h = A·x) and E[ttᵀ] for the outputs' side (t = Bᵀ·g). With X_G·X_Cᵀ = U·S·Vᵀ the components
# p = X_Cᵀ·v/√s and q = X_Gᵀ·u/√s need no inverse, and the leading k minimize ‖X_G·(I − P)·X_Cᵀ‖_F over all factors of
# rank k (Eckart & Young 1936), also over those that lie outside the spaces of B and A. With the triangles of Aᵀ and B
# as roots this is the SVD of B·A.

RIDGE = 1e-4
"""Added to a moment: this share of the mean energy of x (of g) in the directions that the factor sees, in all of them.

So prompts that never use a direction leave it cheap, and not free; a ridge that outweighs everything gives the SVD."""
RESOLVED = 1e-6
"""σ/σ₁ of a factor below which its directions count as rounding: activations are single precision."""


class Components(NamedTuple):
    """Components of one basis by falling value, balanced: ‖qᵀ·A‖ = ‖B·p‖.

    p, q: (r, k), one component a column; k < r if B·A has a lower rank than its factors.
    values: (k,), what each adds to ‖X_G·X_Cᵀ‖_F², as its root.
    """

    p: FloatArray
    q: FloatArray
    values: FloatArray

    def ordered(self, order: NDArray[np.intp]) -> Self:
        """The same components in another order."""
        return self._replace(p=self.p[:, order], q=self.q[:, order], values=self.values[order])


def root(moment: FloatArray, triangle: FloatArray, ridge: float = RIDGE) -> FloatArray:
    """A matrix X, (k, r), with XᵀX = moment + λ·triangleᵀ·triangle, only on the row space of the factor.

    moment: (r, r), E[hhᵀ] or E[ttᵀ].   triangle: R of Aᵀ or of B.   ridge: λ is this share of the mean energy that the
    moment has for each orthonormal direction of the factor.
    """
    _, values, directions = np.linalg.svd(triangle)
    resolved = values > RESOLVED * values.max(initial=0.0)
    values, directions = values[: len(resolved)][resolved], directions[: len(resolved)][resolved]
    if not len(values):
        return np.zeros((0, triangle.shape[1]))
    inside = directions @ moment @ directions.T
    energy = float(
        (np.diagonal(inside).clip(min=0.0) / np.square(values)).mean()
    )  # rounding may leave less than 0
    weights, vectors = np.linalg.eigh((inside + inside.T) / 2)
    within = np.sqrt(weights.clip(min=0.0))[:, None] * vectors.T
    extended = np.vstack([within, math.sqrt(ridge * energy) * np.diag(values)])
    return np.asarray(np.linalg.qr(extended, mode="r") @ directions, dtype=np.float64)


def components(
    root_in: FloatArray, root_out: FloatArray, triangle_A: FloatArray, triangle_B: FloatArray
) -> Components:
    """The components whose leading k are the best for every k under these weights.

    triangle_A, triangle_B: R of Aᵀ and of B; they balance the two sides, and as roots they give the SVD of B·A.
    """
    left, values, right = np.linalg.svd(root_out @ root_in.T, full_matrices=False)
    real = values > 8 * EPS * values.max(initial=0.0)
    p = root_in.T @ right[real].T
    q = root_out.T @ left[:, real]
    sizes = np.linalg.norm(triangle_B @ p, axis=0), np.linalg.norm(triangle_A @ q, axis=0)
    # qᵀp is s before this and 1 after it.
    balance = np.sqrt(np.divide(sizes[1], sizes[0], out=np.ones_like(sizes[0]), where=sizes[0] > 0))
    scale = np.sqrt(values[real])
    return Components(p * balance / scale, q / balance / scale, values[real])


def lost_energies(basis: Components, triangle_A: FloatArray, triangle_B: FloatArray) -> FloatArray:
    """‖B·(I − P)·A‖_F² of the projection P on the leading k components, for k = 0 … all of them.

    Under weights it need not fall with each component, and the first may leave more than there was.
    """
    inputs, outputs = triangle_A @ basis.q, triangle_B @ basis.p
    # What the components from k on come to: the sum over pairs of them of (pᵢᵀBᵀBpⱼ)·(qᵢᵀAAᵀqⱼ).
    pairs = (outputs.T @ outputs) * (inputs.T @ inputs)
    suffixes = np.cumsum(np.cumsum(pairs[::-1, ::-1], axis=0), axis=1).diagonal()[::-1]
    return np.append(suffixes, 0.0).clip(min=0.0)


# ---------------------------------------------------------------- stable rank of random factors
#
# A reference for trained spectra: a module close to it was hardly trained, or needs every direction.

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
