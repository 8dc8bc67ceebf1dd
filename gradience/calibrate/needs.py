"""What a calibration needs beside the base and its own activations, computed before anything is loaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Needs(NamedTuple):
    """Bytes.

    file: of the calibration.   held: in memory from the first batch to the last.   batch: what one batch adds while it
    is computed: h and t of every module.
    """

    file: int
    held: int
    batch: int


def needs_of(ranks: Iterable[int], rows: int, tokens: int) -> Needs:
    """What modules of these ranks need for so many rows, at most `tokens` tokens in a batch (padding included).

    Of each module J (rows x r x r) is never formed: the components are fixed before the second pass, which keeps their
    effects alone (rows x r, for two bases).

    >>> needs_of([64] * 224, rows=256, tokens=8 * 512)  # 7B, seven projections in each of 32 layers
    Needs(file=58951424, held=117440512, batch=234881024)
    """
    file = held = batch = 0
    for rank in ranks:
        moments, maps, effects = 2 * rank * rank, 2 * rank * rank, 2 * rows * rank
        file += 8 * (moments + maps + 2 * rank + 1) + 4 * effects
        # In float64: moments, the maps of two bases, effects; the maps once more in float32, for the device.
        held += 8 * (moments + 2 * maps + effects) + 4 * 2 * maps
        # h stays until t arrives; both are brought into rows, in float32, one module at a time.
        batch += 4 * tokens * rank
    return Needs(file, held, batch)
