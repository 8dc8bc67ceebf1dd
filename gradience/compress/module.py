"""One module: its stored factors -> the stored factors of a smaller rank, and the error that these have.

The error is the one of the words that are written: rounding to the storage type, folding and padding are in it.
Shapes as in `spectra`: A (r, n), B (m, r); factors come as tall float64 blocks (k, r) of Aᵀ and of B. ΔW is never
formed: all that is decided is decided on r x r matrices, and the new factors are small linear maps of the old ones,
A′ = T_A·A and B′ = B·T_B.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np

from gradience import spectra
from gradience.adapters.adapter import BLOCK_ELEMENTS, LoadedPair, LoraPair, word_blocks
from gradience.adapters.tensors import DType, Words, decode, encode
from gradience.audit.dominance import DoraUpdate
from gradience.errors import InputError
from gradience.spectra import Blocks, Core, FloatArray

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
    method: spectra.Method
    gram_A: Core
    gram_B: Core


def truncation(blocks_A: Blocks, blocks_B: Blocks, rank: int) -> Truncation:
    """Return the best rank-`rank` approximation of B·A in the Frobenius and the spectral norm (Eckart & Young 1936).

    If B·A has a lower rank than requested, the surplus rows and columns of the maps are 0. If a factor is 0
    (untrained), the leading components are kept unchanged, so that training can continue.
    Raises NonFiniteFactor.
    """
    gram_A, gram_B = spectra.gram(blocks_A), spectra.gram(blocks_B)
    if not gram_A.matrix.any() or not gram_B.matrix.any():
        leading = np.eye(rank, gram_A.matrix.shape[0])
        return Truncation(leading, leading.T, np.zeros(rank), 0, "gram", gram_A, gram_B)
    cheap = _truncation_from_grams(gram_A, gram_B, rank, MAX_CONDITION)
    if cheap is not None:
        return cheap
    # With R_B·R_Aᵀ = UΣVᵀ: A′ = Σ^{−½}UᵀR_B·A and B′ = B·R_AᵀVΣ^{−½}; no inverse of a triangle is needed.
    triangle_A, triangle_B = spectra.triangle(blocks_A), spectra.triangle(blocks_B)
    left, values, right = np.linalg.svd(triangle_B.matrix @ triangle_A.matrix.T)
    root, inverse_root = _roots(values, rank)
    map_A = (left[:, : len(root)] * inverse_root).T @ triangle_B.matrix
    map_B = triangle_A.matrix.T @ (right[: len(root)].T * inverse_root)
    exponents = triangle_A.exponent, triangle_B.exponent
    return Truncation(
        *_with_exponents(map_A, map_B, exponents, rank), values, sum(exponents), "qr", gram_A, gram_B
    )


def _truncation_from_grams(gram_A: Core, gram_B: Core, rank: int, most: float) -> Truncation | None:
    """Truncate with Gram matrices: AAᵀ = LLᵀ and Lᵀ(BᵀB)L = WΛWᵀ give σ² = Λ, A′ = σ^½WᵀL⁻¹·A, B′ = B·LWσ^{−½}.

    Return None if the rounding error may be too large. most: largest condition number of A.
    """
    # A factor with more columns than rows has a singular Gram matrix, which rounding can hide from Cholesky.
    if gram_A.matrix.shape[0] > min(gram_A.rows, gram_B.rows):
        return None
    try:
        lower = np.linalg.cholesky(gram_A.matrix)
    except np.linalg.LinAlgError:
        return None
    inverse = np.linalg.inv(lower)
    # Of the Frobenius norms, which bound the condition number from above and need no singular values.
    if np.linalg.norm(lower) * np.linalg.norm(inverse) > most:
        return None
    energies, vectors = np.linalg.eigh(lower.T @ gram_B.matrix @ lower)
    spectrum = spectra.spectrum_of_energies(energies, gram_A, gram_B)
    if spectrum is None or spectrum.error_bound > spectra.GRAM_TOLERANCE:
        return None
    values = np.sqrt(energies[::-1].clip(min=0.0))
    root, inverse_root = _roots(values, rank)
    kept = vectors[:, ::-1][:, : len(root)]
    map_A, map_B = (kept * root).T @ inverse, lower @ (kept * inverse_root)
    exponents = gram_A.exponent, gram_B.exponent
    return Truncation(
        *_with_exponents(map_A, map_B, exponents, rank), values, sum(exponents), "gram", gram_A, gram_B
    )


def projection(blocks_A: Blocks, blocks_B: Blocks, p: FloatArray, q: FloatArray) -> Truncation:
    """B·p·qᵀ·A as a truncation: the maps are given, and values, norms and Gram matrices are those of B·A.

    p, q: (r, k). Raises NonFiniteFactor.
    """
    gram_A, gram_B = spectra.gram(blocks_A), spectra.gram(blocks_B)
    whole = spectra.spectrum(blocks_A, blocks_B, wide=gram_A.matrix.shape[0] > min(gram_A.rows, gram_B.rows))
    return Truncation(q.T, p, whole.values, whole.exponent, whole.method, gram_A, gram_B)


def _roots(values: FloatArray, rank: int) -> tuple[FloatArray, FloatArray]:
    """√σ and 1/√σ of the leading values; 0 and 0 if σ is only rounding noise."""
    kept = values[:rank]
    real = kept > 8 * spectra.EPS * (values[0] if len(values) else 0.0)
    root = np.where(real, np.sqrt(kept), 0.0)
    return root, np.divide(1.0, root, out=np.zeros_like(root), where=real)


def _with_exponents(
    map_A: FloatArray, map_B: FloatArray, exponents: tuple[int, int], rank: int
) -> tuple[FloatArray, FloatArray]:
    """Undo the powers of two that were taken out of A and B, and pad the maps to `rank` with zeros."""
    shift = 2.0 ** ((exponents[1] - exponents[0]) / 2)  # √2 is no harm: only the product must be exact
    short = rank - len(map_A)
    return np.pad(map_A * shift, ((0, short), (0, 0))), np.pad(map_B / shift, ((0, 0), (0, short)))


def frobenius(triangle_A: Core, triangle_B: Core) -> float:
    """‖B·A‖_F from the R factors of Aᵀ and B: accurate also if the product nearly cancels."""
    core = triangle_B.matrix @ triangle_A.matrix.T
    return spectra.with_exponent(float(np.linalg.norm(core)), triangle_A.exponent + triangle_B.exponent)


def norm_from_grams(gram_A: Core, gram_B: Core) -> float:
    """‖B·A‖_F = √tr(AAᵀ·BᵀB): cheaper, and right if the factors do not cancel."""
    energy = max(0.0, float((gram_A.matrix * gram_B.matrix).sum()))
    return spectra.with_exponent(math.sqrt(energy), gram_A.exponent + gram_B.exponent)


def unscaled(gram: Core) -> FloatArray:
    """Return XᵀX itself: infinite or 0 where float64 ends."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(np.ldexp(gram.matrix, 2 * gram.exponent), dtype=np.float64)


def cancellation(gram_A: Core, gram_B: Core, norm: float) -> float:
    """‖A‖_F·‖B‖_F/‖B·A‖_F, at least 1; `norm` is ‖B·A‖_F. Infinite if nothing is left of the product."""
    sizes = math.sqrt(float(gram_A.matrix.trace()) * float(gram_B.matrix.trace()))
    whole = spectra.with_exponent(sizes, gram_A.exponent + gram_B.exponent)
    if not whole:
        return 1.0
    return max(1.0, whole / norm) if norm else math.inf


Method = Literal["gram", "qr", "copy"]
TINY_ERROR = 1e-4
"""Relative error below which the squares of a difference cancel too much (1e-15 of the norm): QR measures it again."""
CANCELED = 1e3
"""‖A‖·‖B‖/‖B·A‖ from which Gram products are no longer good for a norm: their rounding grows with its square."""

LARGE = 2**18
"""Minimum parameters of a module for which float32 saves time."""
SINGLE_CONDITION, SINGLE_CANCELED, SINGLE_ERROR, SINGLE_EXPONENT = 1e3, 32.0, 0.1, 40
"""Limits of float32: largest condition number of A, largest ‖A‖·‖B‖/‖B·A‖, smallest relative error, and largest binary
exponent of the entries."""
WorkingType = type[np.float32] | type[np.float64]


@dataclass(frozen=True, slots=True)
class Job:
    """One module to be written.

    new_rank: rank that is kept.   stored_rank: rank on disk, larger if zeros fill it up.
    fold: what B is multiplied by.   written_scale: what the config will say; s = fold · written_scale.
    parameter: the module is a parameter that `target_parameters` wraps.
    strength: factor for the update, part of the written scale.
    dora: makes the update as a DoRA module applies it; None for plain LoRA.
    basis: p and q, (r, k), of a calibration: the leading components are kept. None: those of the SVD.
    """

    pair: LoraPair
    new_rank: int
    stored_rank: int
    fold: float
    written_scale: float
    dtype_A: DType
    dtype_B: DType
    parameter: bool = False
    dora: Callable[[], DoraUpdate] | None = None
    basis: tuple[FloatArray, FloatArray] | None = None
    strength: float = 1.0

    @property
    def scale(self) -> float:
        """s of the module as it was. Raises nothing: jobs are made for known scales only."""
        return self.pair.scale or 0.0

    @property
    def keeps_rank(self) -> bool:
        """True if nothing is truncated."""
        return self.new_rank == self.pair.rank

    @property
    def unchanged(self) -> bool:
        """True if the stored bytes can be copied."""
        return (
            self.keeps_rank
            and self.stored_rank == self.pair.rank
            and self.fold == 1.0
            and self.dtype_A == self.pair.a.entry.dtype
            and self.dtype_B == self.pair.b.entry.dtype
        )

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B on disk."""
        old_A, old_B = self.pair.a.entry.shape, self.pair.b.entry.shape
        if self.stored_rank == self.pair.rank:  # also grouped convolutions, whose B is narrower than its rank
            return old_A, old_B
        inner = self.stored_rank * self.pair.experts
        return (inner, *old_A[1:]), (old_B[0], inner, *old_B[2:])

    @property
    def stored_params(self) -> int:
        """Numbers in A and B on disk."""
        return sum(math.prod(shape) for shape in self.shapes())

    @property
    def stored_bytes(self) -> int:
        """Bytes of A and B on disk."""
        shapes = zip(self.shapes(), (self.dtype_A, self.dtype_B), strict=True)
        return sum(math.prod(shape) * dtype.bits // 8 for shape, dtype in shapes)


class Products(NamedTuple):
    """Inner products of the components bᵢ·aᵢᵀ of stored factors, old with old, old with new, and new with new."""

    old: FloatArray
    cross: FloatArray
    new: FloatArray

    @classmethod
    def of(cls, old: tuple[FloatArray, FloatArray], new: tuple[FloatArray, FloatArray]) -> Self:
        """Return the products of old and new factors, A (r, n) and B (m, r) each."""
        pairs = (old, old), (old, new), (new, new)
        return cls(*((a @ other_A.T) * (b.T @ other_B) for (a, b), (other_A, other_B) in pairs))


class CompressedModule(NamedTuple):
    """The bytes of one module and what they lost."""

    data_A: bytes
    data_B: bytes
    error: float | None
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F over all experts; None for an untrained module."""
    norm: float
    """‖ΔW‖_F."""
    method: Method
    noise: float
    """How far the error may be from another if it is measured again."""
    output_error: float | None = None
    """DoRA only: see `_dora_error`."""
    products: Products | None = None
    """Products of the first expert; None if the factors were only converted."""

    def factors(self, job: Job) -> tuple[FloatArray, FloatArray]:
        """Return A (r, n) and B (m, r) as stored."""
        words_A, words_B = (
            np.frombuffer(self.data_A, job.dtype_A.numpy),
            np.frombuffer(self.data_B, job.dtype_B.numpy),
        )
        return decode(words_A).reshape(job.stored_rank, -1), decode(words_B).reshape(-1, job.stored_rank)


class _Expert(NamedTuple):
    """One expert's factors as stored words, (n, k) and (m, k), and two Frobenius norms."""

    words_A: Words
    words_B: Words
    lost: float
    norm: float
    method: Method
    cancellation: float
    products: Products | None = None


def write_module(job: Job) -> CompressedModule:
    """The stored bytes of one module and the error they have. Raises InputError (code overflow)."""
    loaded = job.pair.load()
    recoded = loaded if job.unchanged else _recoded(job, loaded) if job.keeps_rank else None
    experts = range(job.pair.experts)
    if recoded is not None:
        parts = [_compared(job, loaded, recoded, expert) for expert in experts]
    else:
        parts = [_truncated_expert(job, loaded, expert) for expert in experts]
    norm = math.hypot(*(part.norm for part in parts))
    lost = math.hypot(*(part.lost for part in parts))
    if not math.isfinite(norm):
        raise overflow(job, "the norm of the update is beyond double precision")
    if recoded is not None and job.stored_rank == job.pair.rank:
        data_A, data_B = recoded.stored_A.tobytes(), recoded.stored_B.tobytes()
    else:
        data_A, data_B = packed(job, [(part.words_A, part.words_B) for part in parts])
    return CompressedModule(
        data_A,
        data_B,
        lost / norm if norm else None,
        norm,
        next((part.method for part in parts if part.method == "qr"), parts[0].method),
        1e-8 + 1e-13 * max(part.cancellation for part in parts),
        None if job.dora is None else _dora_error(job, job.dora(), parts[0]),
        parts[0].products,
    )


def overflow(job: Job, problem: str) -> InputError:
    return InputError(
        f"{job.pair.a.file.path}: {job.pair.module}: {problem}",
        code="overflow",
        hint="store them in a wider type: --dtype BF16 (Python: dtype=)",
    )


def packed(job: Job, experts: Sequence[tuple[Words, Words]]) -> tuple[bytes, bytes]:
    """Return the stored bytes of A and B from each expert's Aᵀ and B, with zeros up to the rank on disk."""
    shape_A, shape_B = job.shapes()
    data_A = np.concatenate([_padded(job, words_A).T for words_A, _ in experts]).reshape(shape_A)
    # B of stacked experts: (m, r, E), the expert last.
    data_B = np.stack([_padded(job, words_B) for _, words_B in experts], axis=-1).reshape(shape_B)
    return data_A.tobytes(), data_B.tobytes()


def _padded(job: Job, words: Words) -> Words:
    """All storage types write zero as a word of zeros."""
    short = job.stored_rank - words.shape[1]
    return np.pad(words, ((0, 0), (0, short))) if short else words


# ---------------------------------------------------------------- nothing is truncated


def _recoded(job: Job, loaded: LoadedPair) -> LoadedPair:
    """The same factors in another storage type, or with a factor folded into B: the basis stays what it was."""
    return LoadedPair(
        loaded.pair,
        converted(job, loaded.stored_A, 1.0, job.dtype_A),
        converted(job, loaded.stored_B, job.fold, job.dtype_B),
    )


def converted(job: Job, words: Words, factor: float, wanted: DType) -> Words:
    """Return `factor` times the words in another storage type. Raises InputError (overflow)."""
    if factor == 1.0 and words.dtype == wanted.numpy:
        return words
    flat = words.reshape(-1)
    converted = np.empty(flat.shape, dtype=wanted.numpy)
    for start in range(0, len(flat), BLOCK_ELEMENTS):
        part = slice(start, start + BLOCK_ELEMENTS)
        with np.errstate(over="ignore", under="ignore"):
            converted[part] = encode(decode(flat[part]) * factor, wanted)
        if not np.isfinite(decode(converted[part])).all():
            raise overflow(job, f"its factors do not fit into {wanted.name}")
    return converted.reshape(words.shape)


def _compared(job: Job, loaded: LoadedPair, recoded: LoadedPair, expert: int) -> _Expert:
    blocks_A, blocks_B = loaded.blocks_A(expert), loaded.blocks_B(expert)
    gram_A, gram_B = spectra.gram(blocks_A), spectra.gram(blocks_B)
    norm = norm_from_grams(gram_A, gram_B)
    if cancellation(gram_A, gram_B, norm) > CANCELED:
        norm = frobenius(spectra.triangle(blocks_A), spectra.triangle(blocks_B))
    cancelled = cancellation(gram_A, gram_B, norm)
    norm *= abs(job.scale)
    lost = abs(1 - job.strength) * norm if recoded is loaded else _rounding(job, loaded, recoded, expert)
    return _Expert(
        recoded.words_A(expert),
        recoded.words_B(expert),
        lost,
        norm,
        "copy",
        cancelled,
        Products(*3 * (unscaled(gram_A) * unscaled(gram_B),)) if recoded is loaded else None,
    )


def _rounding(job: Job, loaded: LoadedPair, recoded: LoadedPair, expert: int) -> float:
    """‖s·B·A − s′·B′·A′‖_F for factors that differ by rounding or scale: ‖[D, s·B]·[A′; A′ − A]‖, D = s′·B′ − s·B.

    The differences are taken entry by entry, where they are exact, so that nothing cancels in the products.
    """
    pair = job.pair
    height = max(8 * pair.rank, 1024)
    old_A = word_blocks(loaded.words_A(expert), height)
    old_B = word_blocks(loaded.words_B(expert), height)
    new_A = word_blocks(recoded.words_A(expert), height)
    new_B = word_blocks(recoded.words_B(expert), height)

    def sides_A() -> Iterator[FloatArray]:
        for old, new in zip(old_A(), new_A(), strict=True):
            yield np.hstack([new, new - old])

    def sides_B() -> Iterator[FloatArray]:
        for old, new in zip(old_B(), new_B(), strict=True):
            yield np.hstack([job.written_scale * new - job.scale * old, job.scale * old])

    return norm_from_grams(spectra.gram(sides_A), spectra.gram(sides_B))


# ---------------------------------------------------------------- truncated


class _Side(NamedTuple):
    """A new factor X′, (rows, k), as stored words, and its products with the old factor X and with itself."""

    words: Words
    cross: FloatArray
    """XᵀX′."""
    gram: FloatArray
    """X′ᵀX′."""


def _truncated_expert(job: Job, loaded: LoadedPair, expert: int) -> _Expert:
    words = loaded.words_A(expert), loaded.words_B(expert)
    working: WorkingType = np.float32
    optimum = _in_float32(job, *words)
    if optimum is None:
        working = np.float64
        optimum = _in_float64(job, *map(word_blocks, words))
    gram_A, gram_B = unscaled(optimum.gram_A), unscaled(optimum.gram_B)
    side_A = _side(job, word_blocks(words[0], dtype=working), gram_A, optimum.map_A.T, job.dtype_A)
    side_B = _side(job, word_blocks(words[1], dtype=working), gram_B, optimum.map_B * job.fold, job.dtype_B)
    size = spectra.with_exponent(float(np.linalg.norm(optimum.values)), optimum.exponent)
    norm = abs(job.scale) * size
    canceled = cancellation(optimum.gram_A, optimum.gram_B, size)
    products = Products(gram_A * gram_B, side_A.cross * side_B.cross, side_A.gram * side_B.gram)
    lost = _distance(job, products)
    if canceled > CANCELED or not TINY_ERROR * norm < lost < math.inf:
        lost = _exact_distance(job, loaded, expert, side_A.words, side_B.words)
    return _Expert(side_A.words, side_B.words, lost, norm, optimum.method, canceled, products)


def _in_float32(job: Job, words_A: Words, words_B: Words) -> Truncation | None:
    """Truncate with Gram matrices of float32 blocks. Return None if their rounding error could affect the report.

    Their relative error is at most 1e-6, because blocks are added in float64 and 16-bit words are exact in float32.
    The directions depend on this error only in second order, but the cut-off energy in first order. See
    docs/decisions/004-gram-or-qr.md.
    """
    types = job.pair.a.entry.dtype, job.pair.b.entry.dtype, job.dtype_A, job.dtype_B
    if job.basis is not None or job.pair.params < LARGE or any(dtype.bits > 16 for dtype in types):
        return None
    gram_A, gram_B = (spectra.gram(word_blocks(words, dtype=np.float32)) for words in (words_A, words_B))
    optimum = _truncation_from_grams(gram_A, gram_B, job.new_rank, SINGLE_CONDITION)
    if optimum is None or max(abs(gram_A.exponent), abs(gram_B.exponent)) > SINGLE_EXPONENT:
        return None
    size, cut = (float(np.linalg.norm(values)) for values in (optimum.values, optimum.values[job.new_rank :]))
    canceled = cancellation(gram_A, gram_B, spectra.with_exponent(size, optimum.exponent))
    return optimum if cut >= SINGLE_ERROR * size and canceled <= SINGLE_CANCELED else None


def _in_float64(job: Job, blocks_A: Blocks, blocks_B: Blocks) -> Truncation:
    rank = job.new_rank
    if job.basis is None:
        return truncation(blocks_A, blocks_B, rank)
    # The leading components of the calibration, padded with zeros if there are fewer.
    kept = (np.pad(basis[:, :rank], ((0, 0), (0, max(0, rank - basis.shape[1])))) for basis in job.basis)
    return projection(blocks_A, blocks_B, *kept)


def _side(job: Job, blocks: Blocks, gram: FloatArray, mapping: FloatArray, dtype: DType) -> _Side:
    """Return X′ = X·mapping + E, where E is the rounding error, computed in the dtype of the blocks. gram: XᵀX.

    The products with E are summed apart: those with X·mapping follow from `gram`, so that its own error cancels.
    """
    words, cross, rounding = [], np.zeros(mapping.shape), np.zeros((mapping.shape[1],) * 2)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        for block in blocks():
            new = block @ mapping.astype(block.dtype)
            stored = encode(new, dtype)
            error = decode(stored, block.dtype) - new
            if not np.isfinite(error).all():
                raise overflow(job, f"the new factors do not fit into {dtype.name}")
            words.append(stored)
            cross += block.T @ error
            rounding += error.T @ error
        exact, mixed = gram @ mapping, mapping.T @ cross
        return _Side(np.concatenate(words), exact + cross, mapping.T @ exact + mixed + mixed.T + rounding)


def _distance(job: Job, products: Products) -> float:
    """‖s·B·A − s′·B′·A′‖_F, accurate to 1e-8 of ‖s·B·A‖_F; NaN or infinite near the limits of float64."""
    s, t = job.scale, job.written_scale
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        old, cross, new = (part.sum() for part in products)
        return float(np.sqrt(np.maximum(0.0, s * s * old - 2 * s * t * cross + t * t * new)))


def _exact_distance(job: Job, loaded: LoadedPair, expert: int, words_A: Words, words_B: Words) -> float:
    """The same by QR of the joined factors, which does not cancel."""
    height = max(4 * (job.pair.rank + job.new_rank), 1024)
    size_A, size_B = spectra.balance(
        loaded.blocks_A(expert), loaded.blocks_B(expert)
    )  # the new factors are balanced
    joint_A = spectra.joined(
        word_blocks(loaded.words_A(expert), height), word_blocks(words_A, height), left_scale=size_A
    )
    joint_B = spectra.joined(
        word_blocks(loaded.words_B(expert), height),
        word_blocks(words_B, height),
        left_scale=job.scale * size_B,
        right_scale=-job.written_scale,
    )
    return frobenius(spectra.triangle(joint_A), spectra.triangle(joint_B))


# ---------------------------------------------------------------- DoRA


def _dora_error(job: Job, update: DoraUpdate, truncated: _Expert) -> float:
    """‖W′ − W″‖_F/‖W′ − W‖_F: what the smaller update changes, relative to what the adapter does."""
    new = update.with_factors(decode(truncated.words_A).T, job.written_scale * decode(truncated.words_B))
    lost = done = 0.0
    for before, after in zip(update.blocks(), new.blocks(), strict=True):
        lost += float(np.square(before - after).sum())
        done += float(np.square(before).sum())
    return spectra.relative_error(lost, done) or 0.0
