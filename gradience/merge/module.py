"""One module of several adapters -> the stored factors of the merged module, its error, and its overlap with each
parent.

Shapes as in `spectra`: A_i (r_i, n), B_i (m, r_i), ΔW_i = s_i·B_i·A_i. The weighted sum Σ wᵢΔW_i is the product of
[w₁s₁B₁, w₂s₂B₂ …] and [A₁; A₂ …]: the exact merge has these factors, and its truncation is found in their joint space.
TIES and DARE choose entry by entry, so they need one dense ΔW of a module at a time, in float32.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.adapter import LoadedPair, LoraPair
from gradience.adapters.memory import compress_bytes
from gradience.adapters.tensors import DTYPES, DType, Words, decode
from gradience.audit.dominance import DoraUpdate
from gradience.compress.module import CompressedModule, Job, Products, converted, packed, write_module
from gradience.compress.weights import compared
from gradience.merge.settings import MethodSettings
from gradience.plan.blocking import non_finite
from gradience.spectra import FloatArray, NonFiniteFactor, relative_error, row_blocks

Dense = NDArray[np.float32]
Rows = Callable[[slice], Dense]
"""Some rows of a dense update."""
BLOCK = 2**20
"""Entries of a block of rows of a dense update."""
SMALL = 1024
"""Smaller side of a dense update up to which its SVD is exact; above, subspace iteration finds its directions."""
BESIDE, SETTLED, PASSES = 16, 1e-4, 12
"""Subspace iteration: directions beside those that are kept, growth of the held energy that ends it, most passes."""


class Part(NamedTuple):
    """One parent's update of a module: ΔW = s·B·A, or DoRA's. parent: its place; weight: w of the merge; scale: s."""

    parent: int
    weight: float
    pair: LoraPair
    scale: float
    dora: Callable[[], DoraUpdate] | None = None

    def factors(self, scale: float) -> tuple[FloatArray, FloatArray]:
        """Return A (r, n) and scale·B (m, r). Raises NonFiniteFactor."""
        loaded = self.pair.load()
        return finite(decode(loaded.words_A()).T), finite(scale * decode(loaded.words_B()))

    def rows(self) -> Rows:
        """Return a function that computes a block of rows of ΔW."""
        if self.dora is not None:
            update = self.dora()
            return lambda rows: update.rows(rows).astype(np.float32)
        a, b = (factor.astype(np.float32) for factor in self.factors(self.scale))
        return lambda rows: b[rows] @ a


@dataclass(frozen=True, slots=True)
class MergedPair(LoraPair):
    """Factors of the merged module before truncation, made from its parents' factors when loaded."""

    parts: Sequence[Part] = ()
    stored: DType = DTYPES["F32"]
    """Type of the written factors: the parents', or F32 if theirs differ."""
    recipe: MethodSettings = field(default_factory=MethodSettings)
    is_dense: bool = False
    """True if the module is merged from dense updates: entry by entry, or with a DoRA update."""
    overlaps: FloatArray = field(default_factory=lambda: np.zeros((0, 2)))
    """‖ΔW_i‖² and ⟨ΔW_i, M′⟩ of every parent and, in the last row, of the stored merged update M′ itself. Filled when
    the module is written; 0 for a parent without the module."""

    @property
    def largest_rank(self) -> int:
        """Largest rank that the merged update can have."""
        return min(self.rows, self.columns, *(() if self.is_dense else (self.rank,)))

    @property
    def parent_ranks(self) -> tuple[int | None, ...]:
        """Rank in each parent; None if it lacks the module."""
        ranks = {part.parent: part.pair.rank for part in self.parts}
        return tuple(map(ranks.get, range(len(self.overlaps) - 1)))

    def load(self) -> LoadedPair:
        """Return the factors: in the stored type if no number changes, else in float64."""
        a, b = self._aligned() if self.recipe.method == "knots" else self.joined(self.b.entry.dtype.name)
        return LoadedPair(self, a.reshape(self.a.entry.shape), b.reshape(self.b.entry.shape))

    def joined(self, dtype: str = "F64") -> tuple[Words, Words]:
        """Return [A₁; A₂ …] and [w₁s₁B₁, w₂s₂B₂ …]/s, where s is the scale of this pair."""
        if dtype == "F64":
            factors = [part.factors(part.weight * part.scale / (self.scale or 1.0)) for part in self.parts]
        else:
            loaded = [part.pair.load() for part in self.parts]
            factors = [(one.words_A().T, one.words_B()) for one in loaded]
        factors_A, factors_B = zip(*factors, strict=True)
        return np.concatenate(factors_A), np.concatenate(factors_B, axis=1)

    def _aligned(self) -> tuple[FloatArray, FloatArray]:
        """KnOTS: [ΔW₁, ΔW₂ …] = U·Σ·[V₁ᵀ, V₂ᵀ …]; TIES merges the ΣVᵢᵀ, (k, n) each, and U turns the result back.

        Source: Stoica et al., "Model merging with SVD to tie the KnOTS", arXiv 2410.19735; their code scales V by Σ
        (gstoica27/KnOTS, task_merger.py) and, as here for each module, trims, elects signs and averages.
        """
        factors_A, factors_B = zip(*(part.factors(part.scale) for part in self.parts), strict=True)
        b, triangle = np.linalg.qr(np.hstack(factors_B))
        columns = np.split(triangle, np.cumsum([len(a) for a in factors_A])[:-1], axis=1)
        sides = [np.asarray(np.linalg.qr(a.T, mode="r")).T for a in factors_A]
        core = np.hstack([block @ side for block, side in zip(columns, sides, strict=True)])
        left = np.linalg.svd(core, full_matrices=False)[0]
        tasks = [left.T @ block @ a for block, a in zip(columns, factors_A, strict=True)]
        cuts = [threshold(np.abs(task), self.recipe.density) for task in tasks]
        merged = ties(tasks, [part.weight for part in self.parts], cuts)
        short = self.rank - len(merged)  # fewer directions than ranks if a side of ΔW is smaller
        return np.pad(merged, ((0, short), (0, 0))), np.pad(b @ left, ((0, 0), (0, short)))


def finite(values: NDArray[Any]) -> NDArray[Any]:
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
        return _from_dense(job, pair) if pair.is_dense else _from_factors(job, pair)
    except NonFiniteFactor:
        raise non_finite(*(part.pair for part in pair.parts)) from None


def written_error(pair: LoraPair, written: LoraPair) -> float | None:
    """Return the relative error of a merged module, read back, against its parents merged again.

    None if the merge is 0.
    """
    if not (isinstance(pair, MergedPair) and pair.is_dense):
        return compared(pair, written)
    loaded, updates = written.load(), [merged_dense(pair).__getitem__]
    measured = distances(updates, loaded.words_A(), loaded.words_B(), written.scale or 0.0)
    return relative_error(measured[0, 2], measured[0, 0])


def _from_factors(job: Job, pair: MergedPair) -> CompressedModule:
    """Write a merge of factors, and fill its overlaps from products with the parents' joined factors."""
    written = write_module(job)
    whole = None if pair.recipe.method == "knots" else written.products
    products = whole or Products.of(pair.joined(), written.factors(job))
    pair.overlaps[-1] = job.written_scale**2 * products.new.sum()
    end = 0
    for part in pair.parts:
        rows = slice(end, end := end + part.pair.rank)
        scale = job.scale / part.weight  # the joined factors hold w·ΔW
        energy, inner = products.old[rows, rows].sum(), products.cross[rows].sum()
        pair.overlaps[part.parent] = scale**2 * energy, scale * job.written_scale * inner
    return written


# ---------------------------------------------------------------- dense updates


def _from_dense(job: Job, pair: MergedPair) -> CompressedModule:
    """Write the leading components of a merge of dense updates, and fill its overlaps. Raises InputError (overflow)."""
    merged = merged_dense(pair)
    b, a = leading(merged, job.new_rank, [part.pair.load().words_A() for part in pair.parts])
    words_A = converted(job, a.T, 1.0, job.dtype_A)
    words_B = converted(job, b / job.written_scale, 1.0, job.dtype_B)
    updates = [merged.__getitem__, *(part.rows() for part in pair.parts)]
    measured = distances(updates, words_A, words_B, job.written_scale)
    pair.overlaps[[*(part.parent for part in pair.parts), -1]] = measured[1:, :2]
    energy, _, lost = measured[0].tolist()
    stored, noise = packed(job, [(words_A, words_B)]), 1e-6  # the update is float32
    return CompressedModule(*stored, relative_error(lost, energy), math.sqrt(energy), "qr", noise)


def merged_dense(pair: MergedPair) -> Dense:
    """Return the merged update, (m, n), before it is truncated. Raises NonFiniteFactor."""
    recipe, parts = pair.recipe, pair.parts
    merged: Dense = np.empty((pair.rows, pair.columns), np.float32)
    weights = [part.weight for part in parts]
    makers, cuts = [part.rows() for part in parts], []
    for make in makers if recipe.method == "ties" else ():
        for rows in row_blocks(pair.rows, BLOCK // pair.columns):
            np.abs(make(rows), out=merged[rows])
        cuts.append(threshold(merged, recipe.density))
    name = zlib.crc32(pair.module.encode())
    draws = [np.random.default_rng([recipe.seed, name, 0, part.parent]) for part in parts]
    for rows in row_blocks(pair.rows, BLOCK // pair.columns):
        updates = [make(rows) for make in makers]
        if recipe.method == "dare":  # Yu et al., "Language Models are Super Mario", arXiv 2311.03099
            for update, draw in zip(updates, draws, strict=True):
                update *= draw.random(update.shape, np.float32) < recipe.density
                update /= np.float32(recipe.density)
        summed = (np.float32(weight) * update for weight, update in zip(weights, updates, strict=True))
        merged[rows] = ties(updates, weights, cuts) if cuts else sum(summed)
        finite(merged[rows])
    return merged


def distances(updates: Sequence[Rows], words_A: Words, words_B: Words, scale: float) -> FloatArray:
    """Return ‖X‖², ⟨X, M′⟩ and ‖X − M′‖² of every update X, and in the last row of M′ = s·B·A itself.

    words_A, words_B: Aᵀ and B as stored.
    """
    a, sums = scale * decode(words_A).T, np.zeros((len(updates) + 1, 3))
    for rows in row_blocks(len(words_B), BLOCK // a.shape[1]):
        stored = decode(words_B[rows]) @ a
        blocks = (update(rows).astype(np.float64) for update in updates)
        for place, dense in enumerate(chain(blocks, [stored])):
            sums[place, :2] += np.vdot(dense, dense), np.vdot(dense, stored)
            dense -= stored
            sums[place, 2] += np.vdot(dense, dense)
    return sums


def merge_bytes(job: Job) -> int:
    """Return the bytes needed to merge one module."""
    pair, needed = job.pair, compress_bytes(job.pair, job.new_rank, job.stored_bytes)
    if isinstance(pair, MergedPair) and pair.is_dense:
        needed += 4 * pair.rows * pair.columns + 4 * (len(pair.parts) + 3) * BLOCK
        needed += 16 * (pair.rows + pair.columns) * (job.new_rank + pair.rank)
    return needed


def leading(update: Dense, rank: int, known: Sequence[Words]) -> tuple[FloatArray, FloatArray]:
    """Return B′ (m, rank) and A′ (rank, n), balanced: the leading `rank` singular components of a dense update.

    Exact up to a smaller side of `SMALL`. Above, subspace iteration (Halko et al., SIAM Review 53(2), 2011)
    starts from the `known` row spaces, and ends when the energy that it holds grows by less than `SETTLED` of itself.
    The error that is reported is that of these factors, whatever they are.
    """
    if min(update.shape) <= SMALL:
        u, values, v = np.linalg.svd(update.astype(np.float64), full_matrices=False)
    else:
        random = np.random.default_rng(0).standard_normal((update.shape[1], rank + BESIDE), np.float32)
        start = np.hstack([*(decode(words).astype(np.float32) for words in known), random])
        basis, held = np.linalg.qr(update @ start)[0], 0.0
        for _ in range(PASSES):
            across = basis.T @ update
            energy = float(np.linalg.eigvalsh(across @ across.T)[-rank:].sum())
            if energy - held <= SETTLED * energy:
                break
            held, basis = energy, np.linalg.qr(update @ np.linalg.qr(across.T)[0])[0]
        small, values, v = np.linalg.svd((basis.T @ update).astype(np.float64), full_matrices=False)
        u = basis @ small
    roots = np.sqrt(values[:rank])
    return u[:, :rank] * roots, roots[:, None] * v[:rank]
