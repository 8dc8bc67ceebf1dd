"""One module of several adapters -> the stored factors of the merged module, its error, and its overlap with each
parent.

Shapes as in `spectra`: A_i (r_i, n), B_i (m, r_i), ΔW_i = s_i·B_i·A_i. The weighted sum Σ wᵢΔW_i is the product of
[w₁s₁B₁, w₂s₂B₂ …] and [A₁; A₂ …]: the exact merge has these factors, and its truncation is found in their joint space.
TIES and DARE choose entry by entry, so they need one dense ΔW of a module at a time, in float32.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.adapter import LoadedPair, LoraPair, word_blocks
from gradience.adapters.tensors import DType, Words, decode, encode
from gradience.audit.dominance import DoraUpdate
from gradience.compress.check import compared
from gradience.compress.module import CompressedModule, Job, Products, overflow, write_module
from gradience.errors import InputError
from gradience.merge.settings import MethodSettings
from gradience.spectra import FloatArray, NonFiniteFactor

Dense = NDArray[np.float32]
BLOCK = 2**20
"""Entries of a block of rows of a dense update."""
SMALL = 1024
"""Smaller side of a dense update up to which its SVD is exact; above, subspace iteration finds its directions."""
BESIDE, SETTLED, PASSES = 16, 1e-4, 12
"""Subspace iteration: directions beside those that are kept, growth of the held energy that ends it, most passes."""


MERGED = -1
"""Place of the merged update itself among the parents."""


class ParentOverlap(NamedTuple):
    """‖ΔW_i‖² and ⟨ΔW_i, M′⟩ of one parent and the stored merged update M′. For M′ itself both are ‖M′‖²."""

    energy: float
    inner: float


def overlap_of(parent: int, pairs: Sequence["MergedPair"]) -> tuple[float | None, float | None]:
    """Return cosine ⟨ΔW_i, M′⟩/(‖ΔW_i‖‖M′‖) and projection ⟨ΔW_i, M′⟩/‖ΔW_i‖² of a parent over all modules; None if a
    norm is 0."""
    rows = [pair.overlaps[parent] for pair in pairs if parent in pair.overlaps]
    energy, inner = math.fsum(row.energy for row in rows), math.fsum(row.inner for row in rows)
    # An energy that cancels may be rounded to less than 0.
    size = math.sqrt(energy) * math.sqrt(max(0.0, math.fsum(pair.overlaps[MERGED].energy for pair in pairs)))
    cosine = max(-1.0, min(1.0, inner / size)) if size else None
    return cosine, inner / energy if energy else None


@dataclass(frozen=True, slots=True)
class Part:
    """One parent's update of a module: ΔW = s·B·A, or DoRA's. parent: its place; weight: w of the merge."""

    parent: int
    weight: float
    pair: LoraPair
    dora: Callable[[], DoraUpdate] | None = None

    @property
    def scale(self) -> float:
        """s."""
        return self.pair.scale or 0.0

    def rows(self) -> Callable[[slice], Dense]:
        """Return a function that computes a block of rows of ΔW in float32."""
        if self.dora is not None:
            update = self.dora()
            return lambda rows: update.rows(rows).astype(np.float32)
        loaded = self.pair.load()
        a, b = finite(decode(loaded.words_A()).T), finite(self.scale * decode(loaded.words_B()))
        a32, b32 = a.astype(np.float32), b.astype(np.float32)
        return lambda rows: b32[rows] @ a32


@dataclass(frozen=True, slots=True)
class MergedPair(LoraPair):
    """Factors of the merged module before truncation, made from its parents' factors when loaded."""

    parts: tuple[Part, ...] = ()
    recipe: MethodSettings = field(default_factory=MethodSettings)
    overlaps: dict[int, ParentOverlap] = field(default_factory=dict)
    """Parent, or `MERGED` -> overlap with the merged update. Filled when the module is written."""

    def ranks(self, parents: int) -> tuple[int | None, ...]:
        """Return the rank in each parent; None if it lacks the module."""
        ranks = {part.parent: part.pair.rank for part in self.parts}
        return tuple(ranks.get(place) for place in range(parents))

    def load(self) -> LoadedPair:
        """Return the factors: in the stored type if no number changes, else in float64."""
        loaded = [part.pair.load() for part in self.parts]
        a, b = self._aligned(loaded) if self.recipe.method == "knots" else self._summed(loaded)
        return LoadedPair(self, a.reshape(self.a.entry.shape), b.reshape(self.b.entry.shape))

    def _summed(self, loaded: Sequence[LoadedPair]) -> tuple[Words, Words]:
        factors = [part.weight * part.scale / (self.scale or 1.0) for part in self.parts]
        words_A, words_B = [one.words_A().T for one in loaded], [one.words_B() for one in loaded]
        if self.b.entry.dtype.name == "F64":
            words_A = [decode(words) for words in words_A]
            words_B = [factor * decode(words) for factor, words in zip(factors, words_B, strict=True)]
        return np.concatenate(words_A), np.concatenate(words_B, axis=1)

    def _aligned(self, loaded: Sequence[LoadedPair]) -> tuple[Words, Words]:
        """KnOTS: [ΔW₁, ΔW₂ …] = U·Σ·[V₁ᵀ, V₂ᵀ …]; TIES merges the ΣVᵢᵀ, (k, n) each, and U turns the result back.

        Source: Stoica et al., "Model merging with SVD to tie the KnOTS", arXiv 2410.19735; their code scales V by Σ
        (gstoica27/KnOTS, task_merger.py) and, as here for each module, trims, elects signs and averages.
        """
        factors_B = [
            finite(part.scale * decode(one.words_B())) for part, one in zip(self.parts, loaded, strict=True)
        ]
        b, triangle = np.linalg.qr(np.hstack(factors_B))
        factors_A = [finite(decode(one.words_A()).T) for one in loaded]
        ends = np.cumsum([len(a) for a in factors_A])[:-1]
        columns = np.split(triangle, ends, axis=1)
        core = np.hstack(
            [t @ np.asarray(np.linalg.qr(a.T, mode="r")).T for t, a in zip(columns, factors_A, strict=True)]
        )
        left = np.linalg.svd(core, full_matrices=False)[0]
        tasks = [left.T @ t @ a for t, a in zip(columns, factors_A, strict=True)]
        cuts = [threshold(np.abs(task), self.recipe.density) for task in tasks]
        merged = ties(tasks, [part.weight for part in self.parts], cuts)
        u = b @ left
        short = self.rank - len(merged)  # fewer directions than ranks if a side of ΔW is smaller
        return np.pad(merged, ((0, short), (0, 0))), np.pad(u, ((0, 0), (0, short)))


def finite(values: FloatArray) -> FloatArray:
    """Return the values. Raises NonFiniteFactor if one is NaN or infinite."""
    if not np.isfinite(values).all():
        raise NonFiniteFactor
    return values


def threshold(sizes: NDArray[np.floating], density: float) -> float:
    """Return the smallest size of a kept entry, if the share `density` is kept. Partitions `sizes` in place."""
    flat = sizes.reshape(-1)
    dropped = flat.size - max(1, int(density * flat.size))
    flat.partition(dropped)
    return float(flat[dropped])


def ties(
    updates: Sequence[NDArray[np.floating]], weights: Sequence[float], cuts: Sequence[float]
) -> NDArray[np.floating]:
    """Return the TIES merge of entries: trim below the cuts, elect each entry's sign, average those that have it.

    Weights multiply after the election, and the sum is divided by the number of updates that agree, as in PEFT 0.21
    (utils/merge_utils.py, `ties`). Source: Yadav et al., "TIES-Merging", NeurIPS 2023, arXiv 2306.01708.
    """
    trimmed = [np.where(np.abs(update) >= cut, update, 0) for update, cut in zip(updates, cuts, strict=True)]
    positive = sum(trimmed) >= 0
    total, agreeing = np.zeros_like(trimmed[0]), np.zeros(trimmed[0].shape, np.int8)
    for update, weight in zip(trimmed, weights, strict=True):
        agrees = np.where(positive, update > 0, update < 0)
        total += np.where(agrees, update * update.dtype.type(weight), 0)
        agreeing += agrees
    return np.divide(total, np.maximum(agreeing, 1), dtype=total.dtype)


# ---------------------------------------------------------------- written


def write_merged(job: Job) -> CompressedModule:
    """Return the stored bytes of a merged module and its error. Raises InputError (non-finite, overflow)."""
    pair = job.pair
    assert isinstance(pair, MergedPair)
    try:
        written = _from_dense(job, pair) if is_dense(pair) else write_module(job)
        # The Gram matrices of a sum contain those of its parents' factors.
        summed = pair.recipe.method in ("linear", "svd") and written.products
        overlaps = (
            _from_products(job, pair, *written.products) if summed else _from_factors(job, pair, written)
        )
        pair.overlaps.update(overlaps)
    except NonFiniteFactor:
        words = {part.pair.a.file.path: part.pair.load() for part in pair.parts}
        wrong = (
            path
            for path, loaded in words.items()
            if not np.isfinite(loaded.stored_A).all() or not np.isfinite(loaded.stored_B).all()
        )
        raise InputError(
            f"{next(wrong, pair.a.file.path)}: {pair.module} contains NaN or infinity",
            code="non-finite",
            hint="use an earlier checkpoint; `gradience audit` lists such modules",
        ) from None
    return written


def is_dense(pair: MergedPair) -> bool:
    """Return True if a module is merged from dense updates: entry by entry, or with a DoRA update."""
    return pair.recipe.method in ("ties", "dare") or any(part.dora is not None for part in pair.parts)


def _from_products(job: Job, pair: MergedPair, products: Products) -> Iterator[tuple[int, ParentOverlap]]:
    """Yield the overlap with each parent, from the products of the joined factors, where each has its own rows."""
    size = job.written_scale**2 * float((products.new_A * products.new_B).sum())
    yield MERGED, ParentOverlap(size, size)
    end = 0
    for part in pair.parts:
        rows = slice(end, end := end + part.pair.rank)
        # The joined B is multiplied by w·s/S, where S is the scale of the joined pair.
        energy = job.scale**2 * float((products.old_A[rows, rows] * products.old_B[rows, rows]).sum())
        inner = job.scale * job.written_scale * float((products.cross_A[rows] * products.cross_B[rows]).sum())
        yield part.parent, ParentOverlap(energy / part.weight**2, inner / part.weight)


def _from_factors(
    job: Job, pair: MergedPair, written: CompressedModule
) -> Iterator[tuple[int, ParentOverlap]]:
    """Yield the overlap with each parent, from its factors or its dense update."""
    scale = job.written_scale
    new_A = np.frombuffer(written.data_A, job.dtype_A.numpy).reshape(job.stored_rank, -1).T
    new_B = np.frombuffer(written.data_B, job.dtype_B.numpy).reshape(pair.rows, -1)
    size = scale * scale * _inner(new_A, new_B, new_A, new_B)
    yield MERGED, ParentOverlap(size, size)
    for part in pair.parts:
        if part.dora is not None:
            energy, inner, _ = _dense_inner(part.rows(), new_A, new_B, scale)
        else:
            loaded = part.pair.load()
            old = loaded.words_A(), loaded.words_B()
            energy, inner = (
                part.scale**2 * _inner(*old, *old),
                part.scale * scale * _inner(*old, new_A, new_B),
            )
        yield part.parent, ParentOverlap(energy, inner)


def _inner(old_A: Words, old_B: Words, new_A: Words, new_B: Words) -> float:
    """⟨B·A, B′·A′⟩ = Σ (BᵀB′)∘(AA′ᵀ), of Aᵀ and B as stored words."""
    return float((_cross(old_A, new_A) * _cross(old_B, new_B)).sum())


def _cross(first: Words, second: Words) -> FloatArray:
    """XᵀY of stored words, block by block."""
    height = max(256, 2**18 // max(first.shape[1], second.shape[1]))
    total = np.zeros((first.shape[1], second.shape[1]))
    blocks = zip(word_blocks(first, height)(), word_blocks(second, height)(), strict=True)
    for one, other in blocks:
        total += one.T @ other
    return total


def _slices(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, BLOCK // columns)
    return (slice(start, min(rows, start + height)) for start in range(0, rows, height))


def _dense_inner(
    update: Callable[[slice], Dense], words_A: Words, words_B: Words, scale: float
) -> tuple[float, float, float]:
    """Return ‖ΔW‖², ⟨ΔW, M′⟩ and ‖ΔW − M′‖² of a dense update and M′ = s·B·A, with Aᵀ and B as stored words."""
    a, energy, inner, lost = scale * decode(words_A).T, 0.0, 0.0, 0.0
    for rows in _slices(len(words_B), a.shape[1]):
        dense, merged = update(rows).astype(np.float64), decode(words_B[rows]) @ a
        energy += float(np.vdot(dense, dense))
        inner += float(np.vdot(dense, merged))
        dense -= merged
        lost += float(np.vdot(dense, dense))
    return energy, inner, lost


# ---------------------------------------------------------------- from dense updates


def _from_dense(job: Job, pair: MergedPair) -> CompressedModule:
    merged = merged_dense(pair)
    b, a = leading(merged, job.new_rank, pair)
    words_A, words_B = _encoded(job, a.T, job.dtype_A), _encoded(job, b / job.written_scale, job.dtype_B)
    total, _, lost = _dense_inner(merged.__getitem__, words_A, words_B, job.written_scale)
    shape_A, shape_B = job.shapes()
    short = ((0, 0), (0, job.stored_rank - words_A.shape[1]))
    return CompressedModule(
        np.pad(words_A, short).T.reshape(shape_A).tobytes(),
        np.pad(words_B, short).reshape(shape_B).tobytes(),
        math.sqrt(lost / total) if total else None,
        math.sqrt(total),
        "qr",
        noise=1e-6,  # the dense update is float32
    )


def written_error(pair: LoraPair, written: LoraPair) -> float | None:
    """Return the relative error of a merged module, read back, against its parents merged again.

    None if the merge is 0.
    """
    if not (isinstance(pair, MergedPair) and is_dense(pair)):
        return compared(pair, written)
    loaded = written.load()
    merged, words = merged_dense(pair), (loaded.words_A(), loaded.words_B())
    total, _, lost = _dense_inner(merged.__getitem__, *words, written.scale or 0.0)
    return math.sqrt(lost / total) if total else None


def _encoded(job: Job, values: FloatArray, dtype: DType) -> Words:
    words = encode(values, dtype)
    if not np.isfinite(decode(words)).all():
        raise overflow(job, f"the merged factors do not fit into {dtype.name}")
    return words


def merged_dense(pair: MergedPair) -> Dense:
    """Return the merged update, (m, n), before it is truncated. Raises NonFiniteFactor."""
    recipe, parts = pair.recipe, pair.parts
    merged: Dense = np.empty((pair.rows, pair.columns), np.float32)
    weights = [part.weight for part in parts]
    cuts = []
    for part in parts if recipe.method == "ties" else ():
        make = part.rows()
        for rows in _slices(pair.rows, pair.columns):
            np.abs(make(rows), out=merged[rows])
        cuts.append(threshold(merged, recipe.density))
    makers = [part.rows() for part in parts]
    name = zlib.crc32(pair.module.encode())
    draws = [np.random.default_rng([recipe.seed, name, 0, part.parent]) for part in parts]
    for rows in _slices(pair.rows, pair.columns):
        updates = [make(rows) for make in makers]
        if cuts:
            merged[rows] = ties(updates, weights, cuts)
            continue
        if recipe.method == "dare":  # Yu et al., "Language Models are Super Mario", arXiv 2311.03099
            for update, draw in zip(updates, draws, strict=True):
                update *= draw.random(update.shape, np.float32) < recipe.density
                update /= np.float32(recipe.density)
        merged[rows] = sum(
            np.float32(weight) * update for weight, update in zip(weights, updates, strict=True)
        )
    if not all(np.isfinite(merged[rows]).all() for rows in _slices(pair.rows, pair.columns)):
        raise NonFiniteFactor
    return merged


def leading(merged: Dense, rank: int, pair: MergedPair) -> tuple[FloatArray, FloatArray]:
    """Return B′ (m, rank) and A′ (rank, n), balanced: the leading `rank` singular components of a dense update.

    Exact up to a smaller side of `SMALL`. Above, subspace iteration (Halko et al., SIAM Review 53(2), 2011)
    starts from the row spaces of the parents' factors, and ends when the energy that it holds grows by less than
    `SETTLED` of itself. The error that is reported is that of these factors, whatever they are.
    """
    if min(merged.shape) <= SMALL:
        u, values, v = np.linalg.svd(merged.astype(np.float64), full_matrices=False)
    else:
        random = np.random.default_rng(0).standard_normal((pair.columns, rank + BESIDE), np.float32)
        known = [decode(part.pair.load().words_A()).astype(np.float32) for part in pair.parts]
        basis, held = np.linalg.qr(merged @ np.hstack([*known, random]))[0], 0.0
        for _ in range(PASSES):
            across = basis.T @ merged
            energy = float(np.linalg.eigvalsh(across @ across.T)[-rank:].sum())
            if energy - held <= SETTLED * energy:
                break
            held, basis = energy, np.linalg.qr(merged @ np.linalg.qr(across.T)[0])[0]
        small, values, v = np.linalg.svd((basis.T @ merged).astype(np.float64), full_matrices=False)
        u = basis @ small
    roots = np.sqrt(values[:rank])
    return u[:, :rank] * roots, roots[:, None] * v[:rank]
