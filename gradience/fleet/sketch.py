"""A sketch of an update: 64 numbers that depend on ΔW alone, whatever its factors, its rank and its storage.

Each is a sum over the modules of ±⟨u·vᵀ, ΔW⟩ with random signs u and v, so a sketch is linear in ΔW, and the length of
the difference of two sketches is, on average, √64 times that of the updates (Johnson & Lindenstrauss 1984, with the
signs of Achlioptas 2003). It only finds candidates: what is called a copy was compared exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from gradience.digests import sha256_bytes
from gradience.spectra import Blocks, FloatArray

SIDE = 8
"""Vectors on each side; SIDE² numbers."""
SEED = 20261126
CACHED_ROWS = 2**19
"""Of signs that are kept: 32 MB for each side of a vocabulary, and never more than `CACHED` of them."""
CACHED = 16


def sketch_of(
    name: str, scale: float, blocks_A: Blocks, blocks_B: Blocks, rows: tuple[int, int]
) -> FloatArray:
    """Return the contribution of one module, (SIDE²,).

    name: of the module, which its signs depend on, so that modules do not stand in for each other.
    rows: of Aᵀ and of B: n and m.
    """
    right = _projected(blocks_A(), _signs(rows[0], 0))
    left = _projected(blocks_B(), _signs(rows[1], 1))
    return scale * _module_signs(name) * (left @ right.T).ravel()


def _projected(blocks: Iterable[FloatArray], signs: FloatArray) -> FloatArray:
    """Signsᵀ·X, (SIDE, r), for a tall factor X in blocks of rows."""
    start, total = 0, None
    for block in blocks:
        part = signs[:, start : start + len(block)] @ block
        total = part if total is None else total + part
        start += len(block)
    assert total is not None  # a factor has rows
    return total


def _signs(rows: int, side: int) -> FloatArray:
    """Random signs, (SIDE, rows): those of a shorter side are the first of a longer one's."""
    return _kept_signs(rows, side) if rows <= CACHED_ROWS else _new_signs(rows, side)


def _new_signs(rows: int, side: int) -> FloatArray:
    drawn = np.random.default_rng((SEED, side)).integers(0, 2, size=(rows, SIDE), dtype=np.int8)
    return np.ascontiguousarray((2 * drawn - 1).T, dtype=np.float64)


_kept_signs = lru_cache(maxsize=CACHED)(_new_signs)


@lru_cache(maxsize=4096)
def _module_signs(name: str) -> FloatArray:
    digest = sha256_bytes(name.encode(errors="surrogatepass"))[: SIDE * SIDE // 8]
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
    return 2 * bits.astype(np.float64) - 1
