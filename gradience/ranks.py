"""Grids of ranks, exact percentiles, and the scale that a rank and α make. Pure.

The grid never argues an adapter down: evidence is rounded up, and the ceiling is the allocated rank.
"""

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal

DEFAULT_GRID: tuple[int, ...] = tuple(2**i for i in range(17))
"""Allowed ranks 1, 2, 4 … 65536: the ranks that people train and servers allocate."""

VLLM_MAX_LORA_RANKS: tuple[int, ...] = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of max_lora_rank that vLLM accepts (config/lora.py in 0.32.0): serving memory grows in these steps."""

Suggested = Literal["uniform_median", "uniform_p90", "per_layer"]
"""Names of the audit's rank suggestions."""
DecidedBy = Literal["evidence", "grid", "cap"]


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


def scale_of(alpha: float, rank: int, *, use_rslora: bool) -> float:
    """s = α/r, or α/√r with rsLoRA (PEFT 0.21, tuners/lora/layer.py, `update_layer`)."""
    return alpha / math.sqrt(rank) if use_rslora else alpha / rank


def scaled_alpha(alpha: float, rank: int, new_rank: int, *, use_rslora: bool) -> int | float:
    """α′ that keeps the scale: α·r′/r, with rsLoRA α·√(r′/r). An integer if it is one."""
    value = alpha * math.sqrt(new_rank / rank) if use_rslora else alpha * new_rank / rank
    return int(value) if float(value).is_integer() else value
