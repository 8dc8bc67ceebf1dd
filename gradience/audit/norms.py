"""‖W‖_F and ‖W‖₂ of a matrix that comes in blocks of rows, and the cache of those of base weights.

A base is the same for every adapter on it, and its norms take a hundred products with each weight. They are kept under
the digest of the weight's own values: whatever file or model holds them, nobody has to say when an entry is old.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gradience.adapters.strict_json import loads
from gradience.caching import cache_folder
from gradience.digests import Sha256
from gradience.errors import InputError, OutputError
from gradience.files.whole import write_whole
from gradience.lanczos import FAILURE, SEED, TOLERANCE, spectral_norm
from gradience.reading import read_file
from gradience.spectra import FloatArray

KEPT_BYTES = 2**28
"""Of a weight that is kept in float32 while its norm is found; a larger one is read again for every product."""
MAX_ENTRY = 1000
"""Bytes of a file of the cache."""
Blocks = Callable[[], Iterable[FloatArray]]


class Norms(NamedTuple):
    """Of one weight; NaN where an entry is not finite, or where all are 0."""

    frobenius: float
    largest: float


def norms_of(blocks: Blocks) -> Norms:
    """Return ‖W‖_F, and ‖W‖₂ within the tolerance of `lanczos`.

    blocks: makes the rows of W in blocks, (k, n), from the start.
    """
    total, size, columns = 0.0, 0, 0
    kept: list[FloatArray] | None = []
    for block in blocks():
        total += float(np.square(block).sum())
        size, columns = size + block.size, block.shape[1]
        if kept is not None:
            kept.append(block.astype(np.float32))
            kept = kept if 4 * size <= KEPT_BYTES else None
    if not math.isfinite(total) or total == 0.0:
        return Norms(math.nan, math.nan)
    parts: Blocks = blocks if kept is None else lambda: kept

    def product(vector: FloatArray) -> FloatArray:
        image = np.zeros(columns)
        for block in parts():
            narrow = vector.astype(block.dtype)
            # Every entry is finite, by the sum above. OpenBLAS reads whole vector registers, also behind the end of a
            # small matrix, and a NaN that lies there raises the flag that numpy would warn of.
            with np.errstate(invalid="ignore"):
                image += block.T @ (block @ narrow)
        return image

    return Norms(math.sqrt(total), spectral_norm(product, columns))


def cached_norms(blocks: Blocks) -> Norms:
    """Return the same from the cache, or find them and keep them there. A cache that cannot be written is none.

    An entry that is not what was written is found anew. A file is renamed into its place whole, by whichever process.
    """
    digest = Sha256(f"{TOLERANCE} {FAILURE} {SEED}".encode())
    for block in blocks():
        digest.update(f"{block.shape}".encode())
        digest.update(block.astype(np.float32).data)
    name = digest.hexdigest()
    place = cache_folder() / "norms" / name[:2] / f"{name}.json"
    with suppress(InputError, ValueError, TypeError, KeyError):
        return _entry(place, name)
    norms = norms_of(blocks)
    if math.isfinite(norms.largest):
        with suppress(OutputError, OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, [json.dumps({"of": name, **norms._asdict()}).encode()])
    return norms


def _entry(place: Path, name: str) -> Norms:
    """Raise InputError, ValueError, TypeError or KeyError for anything but an entry of this name."""
    entry = loads(read_file(place, MAX_ENTRY), place, place.name)
    norms = Norms(float(entry["frobenius"]), float(entry["largest"]))
    # ‖W‖₂ ≤ ‖W‖_F but for the rounding of float32.
    if entry["of"] != name or not 0 < norms.largest <= 1.001 * norms.frobenius < math.inf:
        raise ValueError("not an entry")
    return norms
