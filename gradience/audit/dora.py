"""What a DoRA module adds to its weight: ΔW = m·(W + s·B·A)/‖W + s·B·A‖ − W, row by row, from the base's weights.

Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", arXiv 2402.09353; PEFT 0.21, tuners/lora/dora.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gradience.adapters.adapter import Adapter, Factor, LoraPair
from gradience.adapters.base_weights import BaseWeights, Rows
from gradience.adapters.dtypes import decode
from gradience.adapters.inventory import DORA_REASON
from gradience.adapters.keys import parse_key
from gradience.errors import InputError
from gradience.spectra import FloatArray

ROWS = 512
"""Rows of W in memory at a time."""


def magnitudes_of(opened: Adapter) -> dict[str, Factor]:
    """Return the magnitude of each module that has one."""
    files = {name: file for file in opened.files for name in file.entries}
    return {
        parse_key(note.tensor).module: Factor(
            note.tensor, files[note.tensor], files[note.tensor].entries[note.tensor]
        )
        for note in opened.other
        if note.reason == DORA_REASON
    }


class DoraUpdate:
    """ΔW of one linear module in blocks of rows, and how far its magnitude has moved.

    Raises InputError: dora for a module that is not linear or has no magnitude, and what the base raises.
    """

    def __init__(
        self, pair: LoraPair, magnitude: Factor | None, base: BaseWeights, *, transposed: bool
    ) -> None:
        if pair.kind != "linear" or magnitude is None or pair.scale is None:
            raise InputError(
                f"DoRA of a {pair.kind} module, or without its magnitude or α",
                code="dora",
                hint="retrain without DoRA on it",
            )
        self._weight: Rows = base.weight(pair.module, (pair.rows, pair.columns), transposed=transposed)
        self._magnitude = decode(magnitude.read()).reshape(-1)
        if self._magnitude.shape != (pair.rows,):
            raise InputError(
                f"the magnitude has {len(self._magnitude)} entries, the module {pair.rows} rows",
                code="dora",
                hint="save the adapter again with PEFT",
            )
        loaded = pair.load()
        self._a, self._b = decode(loaded.words_A()).T, pair.scale * decode(loaded.words_B())

    def blocks(self) -> Iterator[FloatArray]:
        """Yield ΔW, some rows at a time."""
        for rows in self._rows():
            weight = self._weight(rows)
            direction = weight + self._b[rows] @ self._a
            lengths = np.linalg.norm(direction, axis=1)
            lengths[lengths == 0] = 1.0
            yield (self._magnitude[rows] / lengths)[:, None] * direction - weight

    def magnitude_change(self) -> float:
        """‖m − m₀‖₂/‖m₀‖₂, where m₀, the norms of W's rows, is what training starts from."""
        before = np.concatenate([np.linalg.norm(self._weight(rows), axis=1) for rows in self._rows()])
        return float(np.linalg.norm(self._magnitude - before) / np.linalg.norm(before))

    def _rows(self) -> Iterator[slice]:
        for start in range(0, len(self._magnitude), ROWS):
            yield slice(start, start + ROWS)
