"""Random numbers that belong to a row, not to its place: the same whatever stands beside it. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from gradience.spectra import FloatArray

_STREAMS = {"labels": 0, "completion": 1}


def uniforms(seed: int, row_id: str, count: int, of: Literal["labels", "completion"]) -> FloatArray:
    """`count` numbers in [0, 1) for the row with this identity (hexadecimal digits)."""
    return np.random.default_rng([seed, _STREAMS[of], int(row_id, 16)]).random(count)


def uniforms_of(seed: int, rows: Sequence[tuple[str, int]]) -> FloatArray:
    """The numbers that draw the labels of several rows (identity, scored tokens), one row after the other."""
    return np.concatenate([uniforms(seed, row, count, "labels") for row, count in rows])
