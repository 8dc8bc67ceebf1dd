"""One module whose update is dense -> the stored factors of its leading components, and the error that these have.

An update that was made entry by entry, or that is DoRA's, has no small factors. Shapes as in `spectra`: ΔW (m, n) in
float32, and M′ = s·B·A as it is stored.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from gradience.adapters.adapter import LoraPair
from gradience.adapters.tensors import Words, decode
from gradience.compress.module import CompressedModule, Job, converted, packed
from gradience.spectra import FloatArray, relative_error

Dense = NDArray[np.float32]
Rows = Callable[[slice], Dense]
"""Some rows of a dense update."""
BLOCK = 2**20
"""Entries of a block of rows of a dense update."""
SMALL = 1024
"""Smaller side of a dense update up to which its SVD is exact; above, subspace iteration finds its directions."""
BESIDE, SETTLED, PASSES = 16, 1e-4, 12
"""Subspace iteration: directions beside those that are kept, growth of the held energy that ends it, most passes."""


def write_dense(
    job: Job, update: Dense, known: Sequence[Words], others: Sequence[Rows]
) -> tuple[CompressedModule, FloatArray]:
    """Return the stored bytes of a dense update, their error, and the `distances` of other updates from them.

    known: Aᵀ of factors whose row spaces its leading components are likely to be in. Raises InputError (overflow).
    """
    b, a = leading(update, job.new_rank, known)
    words_A = converted(job, a.T, 1.0, job.dtype_A)
    words_B = converted(job, b / job.written_scale, 1.0, job.dtype_B)
    measured = distances([update.__getitem__, *others], words_A, words_B, job.written_scale)
    energy, _, lost = measured[0].tolist()
    data_A, data_B = packed(job, [(words_A, words_B)])
    error, noise = relative_error(lost, energy), 1e-6  # the update is float32
    return CompressedModule(data_A, data_B, error, math.sqrt(energy), "qr", noise), measured[1:]


def distances(updates: Sequence[Rows], words_A: Words, words_B: Words, scale: float) -> FloatArray:
    """Return ‖X‖², ⟨X, M′⟩ and ‖X − M′‖² of every update X, and in the last row of M′ = s·B·A itself.

    words_A, words_B: Aᵀ and B as stored.
    """
    a, sums = scale * decode(words_A).T, np.zeros((len(updates) + 1, 3))
    for rows in row_blocks(len(words_B), a.shape[1]):
        stored = decode(words_B[rows]) @ a
        blocks = (update(rows).astype(np.float64) for update in updates)
        for place, dense in enumerate(chain(blocks, [stored])):
            sums[place, :2] += np.vdot(dense, dense), np.vdot(dense, stored)
            dense -= stored
            sums[place, 2] += np.vdot(dense, dense)
    return sums


def dense_bytes(pair: LoraPair, new_rank: int, updates: int) -> int:
    """Return the bytes that a dense update needs beside `compress_bytes`. updates: others measured with it."""
    sides = pair.rows + pair.columns
    return 4 * pair.rows * pair.columns + 4 * (updates + 3) * BLOCK + 16 * sides * (new_rank + pair.rank)


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Yield the blocks of rows that a dense update is worked on in."""
    height = max(1, BLOCK // columns)
    return (slice(start, min(rows, start + height)) for start in range(0, rows, height))


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
