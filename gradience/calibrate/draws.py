"""Random numbers that belong to a row, not to its place: the same whatever stands beside it. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradience.spectra import FloatArray

_STREAMS = {"signs": 0, "completion": 1}


def uniforms(seed: int, row_id: str, count: int) -> FloatArray:
    """`count` numbers in [0, 1) that draw a completion of the row with this identity (hexadecimal digits)."""
    return _stream(seed, row_id, "completion").random(count)


def signs(seed: int, row_id: str, count: int, classes: int) -> NDArray[np.float32]:
    """+1 or −1, as likely, for each scored token of the row and each class: (count, classes)."""
    drawn = np.frombuffer(_stream(seed, row_id, "signs").bytes(-(-count * classes // 8)), dtype=np.uint8)
    bits = np.unpackbits(drawn, count=count * classes).reshape(count, classes)
    return bits.astype(np.float32) * 2 - 1


def signs_of(seed: int, rows: Sequence[tuple[str, int]], classes: int) -> NDArray[np.float32]:
    """The signs of several rows (identity, scored tokens), one row after the other."""
    return np.concatenate([signs(seed, row, count, classes) for row, count in rows])


def _stream(seed: int, row_id: str, of: Literal["signs", "completion"]) -> np.random.Generator:
    return np.random.default_rng([seed, _STREAMS[of], int(row_id, 16)])
