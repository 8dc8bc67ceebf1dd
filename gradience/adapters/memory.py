"""Memory estimates for work on an adapter, computed from its shapes before any allocation, and the limit.

A 12 kB header can describe a module whose r x r matrices take gigabytes. Every verb that does arithmetic
calls this first, and gets the number of modules that fit at a time or an error that states the memory needed.

The figures are upper bounds on measured use (tests/adapters/test_refusals.py), in bytes; shapes as in
`spectra`.
"""

import os
from collections.abc import Iterable

from gradience.adapters.adapter import Adapter, LoraPair, block_height
from gradience.blas import processors
from gradience.errors import InputError

MB = 10**6
LEAST_LIMIT = 500 * MB
"""Minimum limit, for adapters with small files."""
TIMES_FILE = 8
"""Limit as a multiple of the file size: the factors in double precision, twice, plus headroom."""
PROCESS = 80 * MB
"""The interpreter and its libraries."""
TENSOR = 1000
"""Bytes kept per tensor while its adapter is open: name, offset, key and pair."""
ROW = 4500
"""Bytes a report keeps per module besides its singular values, including serialization."""
SIGMA = 80
"""Bytes a report keeps per singular value: a float, its tuple slot and its text."""
FLOAT = 8
DORA_ROWS = 512
"""Rows of the base weight read at a time (compress/module.py)."""


def limit_for(max_memory: int | None, adapters: Iterable[Adapter]) -> int:
    """The limit: `max_memory`, or by default 500 MB or eight times the files, but then at most half of the machine."""
    if max_memory is not None:
        return max_memory
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(LEAST_LIMIT, min(TIMES_FILE * sum(adapter.bytes for adapter in adapters), machine // 2))


def workers_within(
    max_memory: int | None,
    adapters: Iterable[Adapter],
    work: Iterable[tuple[LoraPair, int]],
    workers: int | None,
) -> int:
    """Return how many modules can be processed at a time: `workers` (one per processor by default), or as
    many as fit.

    work: each module, and the bytes needed to process it.
    Raises InputError (`memory-limit`) if even one module at a time would exceed the limit.
    """
    opened = list(adapters)
    limit = limit_for(max_memory, opened)
    kept = PROCESS + TENSOR * sum(len(file.entries) for adapter in opened for file in adapter.files)
    kept += sum(report_bytes(pair) for adapter in opened for pair in adapter.pairs)
    largest, most = max(work, key=lambda item: item[1], default=(None, 0))
    if kept + most > limit:
        path = opened[0].location.path
        needs = (
            f"{largest.module[:200]!r} (r {largest.rank:,} on {largest.rows:,} x {largest.columns:,})"
            if largest and most > kept
            else "its report"
        )
        raise InputError(
            f"{path}: this would take about {(kept + most) / MB:,.0f} MB of memory, {needs} most of it; "
            f"the limit is {limit / MB:,.0f} MB",
            code="memory-limit",
            hint=f"if you trust the file, raise the limit: --max-memory {-(-(kept + most) // MB)}MB",
        )
    return max(1, min(workers or processors(), (limit - kept) // max(1, most)))


def report_bytes(pair: LoraPair) -> int:
    """Return the bytes that a report keeps of the module: a row per expert, with its singular values."""
    return pair.experts * (ROW + SIGMA * min(pair.rank, pair.rows, pair.columns))


def factor_bytes(pair: LoraPair) -> int:
    """Both factors as they are stored; B of a grouped convolution also as the matrix that it is."""
    spread = pair.rows * pair.rank * pair.b.entry.dtype.bits // 8 if pair.groups > 1 else 0
    return pair.bytes + spread


def measure_bytes(pair: LoraPair, other: LoraPair | None = None) -> int:
    """Return the bytes needed to measure one module, or to compare it with another: the factors, blocks of them, and
    their reduced matrices, joined if the shapes agree.
    """
    sides = (pair.rows, pair.columns)
    if other is None or sides != (other.rows, other.columns):
        return max(joined_bytes(item, item.rank) for item in (pair, other) if item is not None)
    return joined_bytes(pair, pair.rank + other.rank) + factor_bytes(other)


def compress_bytes(pair: LoraPair, new_rank: int, stored_bytes: int, *, dora: bool = False) -> int:
    """Return the bytes needed to write one module: Gram matrices (even if r is larger than the sides), both new
    factors, and the distance to the old factors, which are joined.

    stored_bytes: size of the new factors, which wait to be written to the file.
    dora: the factors are also decoded whole, beside rows of the base weight.
    """
    both = pair.rank + new_rank
    decoded = FLOAT * ((pair.rows + pair.columns) * both + 4 * DORA_ROWS * pair.columns) if dora else 0
    return joined_bytes(pair, both) + 4 * FLOAT * pair.rank**2 + decoded + 6 * stored_bytes


def joined_bytes(pair: LoraPair, rank: int) -> int:
    """Return the bytes needed to process a pair whose factors are joined with others to `rank` columns."""
    sides = (pair.rows, pair.columns)
    height = max(8 * rank, block_height(rank))
    blocks = max(FLOAT * rank * min(side, height) for side in sides)
    cores = sum(FLOAT * rank * min(rank, side) for side in sides)
    return factor_bytes(pair) + 6 * blocks + 7 * cores
