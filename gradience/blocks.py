"""Small arithmetic on the blocks and powers of two that spectra are computed with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradience.spectra import Blocks, FloatArray


def joined(left: Blocks, right: Blocks, left_scale: float = 1.0, right_scale: float = 1.0) -> Blocks:
    """Blocks of [left_scale·X, right_scale·Y]; both factors must come in blocks of the same heights."""

    def blocks() -> Iterator[FloatArray]:
        for first, second in zip(left(), right(), strict=True):
            yield np.hstack([left_scale * first, right_scale * second])

    return blocks


def with_exponent(value: float, exponent: int) -> float:
    """value · 2^exponent: infinite or 0 where float64 ends (math.ldexp would raise)."""
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value, exponent))
