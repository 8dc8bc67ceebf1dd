"""DoRA layers: W′ = m·V/‖V‖ row by row, with V = W + s·B·A. What a smaller B·A does to them depends on W.

The magnitude m is kept. What is measured is the whole layer, W′ as PEFT applies it (0.21, tuners/lora/dora.py), for
linear layers: with the base weight at hand, in blocks of rows, one layer at a time.
Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353.
"""

from __future__ import annotations

import numpy as np

from gradience.adapters.base_weights import Rows
from gradience.spectra import FloatArray, relative_error

ROWS = 512
"""Rows of W in memory at a time."""


def output_error(
    weight: Rows,
    magnitude: FloatArray,
    old: tuple[FloatArray, FloatArray],
    new: tuple[FloatArray, FloatArray],
) -> float:
    """‖W′ − W″‖_F/‖W′ − W‖_F: what the smaller update changes, relative to what the adapter does.

    weight: W, (m, n), by rows.   magnitude: (m,).   old, new: (s·B, A) with shapes (m, r), (r, n).
    """
    lost = done = 0.0
    for start in range(0, len(magnitude), ROWS):
        rows = slice(start, start + ROWS)
        base = weight(rows)
        before = _layer(base, magnitude[rows], old[0][rows], old[1])
        after = _layer(base, magnitude[rows], new[0][rows], new[1])
        lost += float(np.square(before - after).sum())
        done += float(np.square(before - base).sum())
    return relative_error(lost, done) or 0.0


def _layer(weight: FloatArray, magnitude: FloatArray, scaled_B: FloatArray, a: FloatArray) -> FloatArray:
    direction = weight + scaled_B @ a
    lengths = np.linalg.norm(direction, axis=1)
    lengths[lengths == 0] = 1.0
    layer: FloatArray = (magnitude / lengths)[:, None] * direction
    return layer
