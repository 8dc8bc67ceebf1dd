"""Measured ranks -> suggested ranks, and what an adapter costs at a rank. Pure.

The grid never argues an adapter down: evidence is rounded up, and the ceiling is the allocated rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

DEFAULT_GRID: tuple[int, ...] = tuple(2**i for i in range(17))
"""Allowed ranks 1, 2, 4 … 65536: the ranks that people train and servers allocate."""

VLLM_MAX_LORA_RANKS: tuple[int, ...] = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as max_lora_rank (config/lora.py, seen in 0.32.0): serving memory comes in these steps."""

DecidedBy = Literal["evidence", "grid", "cap"]


@dataclass(frozen=True, slots=True)
class ModuleSize:
    """What counts for the cost of one LoRA module: r·(m/groups + n) parameters."""

    rank: int
    rows: int
    columns: int
    itemsize: float = 2.0
    groups: int = 1
    """Of a grouped convolution, whose B holds m·r/groups values."""

    def params(self, rank: int) -> int:
        """Parameters of A and B at `rank`."""
        return rank * (self.rows // self.groups + self.columns)

    def bytes(self, rank: int) -> int:
        """Bytes of A and B at `rank` in the storage type of today."""
        return round(self.params(rank) * self.itemsize)


def round_up(evidence: float | Fraction, grid: Sequence[int], *, ceiling: int) -> tuple[int, DecidedBy]:
    """Smallest rank of `grid` that covers `evidence`, never above `ceiling`, and what decided.

    Needing 58 of 64 suggests 64; needing 20 of 24 on a grid of powers of two suggests 24 (the cap).
    """
    for rank in sorted(grid):
        if evidence <= rank <= ceiling:
            return rank, "evidence" if rank == math.ceil(evidence) else "grid"
    return ceiling, "cap"


def percentile(values: Iterable[int | float | Fraction], percent: int) -> Fraction:
    """The exact percentile of `values`: linear interpolation between order statistics (Hyndman & Fan type 7).

    >>> percentile([1, 1, 1, 1, 1, 2, 7], 90)  # in floats: 4.000000000000001, which would round up to rank 8
    Fraction(4, 1)

    percent: 0 … 100. Floats count as the exact numbers that they are. Raises ValueError for no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a percentile needs at least one value")
    low, hundredths = divmod((len(ordered) - 1) * percent, 100)
    start, end = Fraction(ordered[low]), Fraction(ordered[min(low + 1, len(ordered) - 1)])
    return start + (end - start) * hundredths / 100


def max_lora_rank_step(rank: int) -> int | None:
    """The smallest max_lora_rank that vLLM permits and that holds `rank`; None above the largest."""
    return next((step for step in VLLM_MAX_LORA_RANKS if rank <= step), None)


def parse_grid(text: str) -> tuple[int, ...]:
    """`"4,8,16"` -> (4, 8, 16), sorted and unique. Raises ValueError with a readable reason."""
    try:
        grid = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ValueError(f"allowed ranks are integers separated by commas, not {text!r}") from None
    if grid[0] < 1:
        raise ValueError("an allowed rank is at least 1")
    return tuple(grid)
