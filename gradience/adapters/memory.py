"""Memory estimates for work on an adapter, computed from its shapes before any allocation, and the limit.

A 12 kB header can describe a module whose r x r matrices take gigabytes. Every verb that does arithmetic
calls this first, and gets the number of modules that fit at a time or an error that states the memory needed.

The figures are upper bounds on measured use (tests/adapters/test_refusals.py), in bytes; shapes as in
`spectra`.
"""

import os
from collections.abc import Callable, Iterable

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
ROW, COMPARED_ROW = 4500, 1200
"""Bytes a report keeps per module besides its singular values, including serialization; the same for a
comparison.
"""
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
    limit: int,
    adapters: Iterable[Adapter],
    work: Iterable[tuple[LoraPair, int]],
    workers: int | None,
    report: Callable[[LoraPair], int] | None = None,
) -> int:
    """Return how many modules can be processed at a time: `workers` (one per processor by default), or as
    many as fit.

    work: each module, and the bytes needed to process it.
    report: bytes that the result keeps for a module; by default a row of an audit.
    Raises InputError (`memory-limit`) if even one module at a time would exceed `limit`.
    """
    opened = list(adapters)
    kept = PROCESS + TENSOR * sum(len(file.entries) for adapter in opened for file in adapter.files)
    kept += sum((report or report_bytes)(pair) for adapter in opened for pair in adapter.pairs)
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
            hint=f"if you trust the file: --max-memory {-(-(kept + most) // MB)}MB",
        )
    return max(1, min(workers or processors(), (limit - kept) // max(1, most)))


def report_bytes(pair: LoraPair) -> int:
    """Return what a report keeps of the module: a row for each expert, with its singular values."""
    return pair.experts * (ROW + SIGMA * min(pair.rank, pair.rows, pair.columns))


def comparison_bytes(pair: LoraPair) -> int:
    """Return what a comparison keeps of the module."""
    return pair.experts * COMPARED_ROW


def factor_bytes(pair: LoraPair) -> int:
    """Both factors as they are stored; B of a grouped convolution also as the matrix that it is."""
    spread = pair.rows * pair.rank * pair.b.entry.dtype.bits // 8 if pair.groups > 1 else 0
    return pair.bytes + spread


def block_bytes(rank: int, rows: int, height: int) -> int:
    """One block of a factor in double precision."""
    return FLOAT * rank * min(rows, height)


def core_bytes(rank: int, rows: int) -> int:
    """The triangle of a factor: min(rows, r) x r."""
    return FLOAT * rank * min(rank, rows)


def audit_bytes(pair: LoraPair) -> int:
    """Return the bytes needed to measure one module: its factors, blocks of them, and their reduced
    matrices.
    """
    sides = (pair.rows, pair.columns)
    blocks = max(block_bytes(pair.rank, side, block_height(pair.rank)) for side in sides)
    return factor_bytes(pair) + 4 * blocks + 5 * sum(core_bytes(pair.rank, side) for side in sides)


def compress_bytes(pair: LoraPair, new_rank: int, stored_bytes: int, *, dora: bool = False) -> int:
    """Return the bytes needed to write one module.

    This covers measuring it, Gram matrices (even if r is larger than the sides), the maps, both new factors,
    and the distance to the old factors, which are joined.
    stored_bytes: size of the new factors, which wait to be written to the file.
    dora: the factors are also decoded whole, beside rows of the base weight.
    """
    both, sides = pair.rank + new_rank, (pair.rows, pair.columns)
    gram = FLOAT * pair.rank**2
    blocks = max(block_bytes(pair.rank, side, block_height(pair.rank)) for side in sides)
    joint = max(block_bytes(both, side, max(8 * both, 1024)) for side in sides)
    cores = 2 * sum(core_bytes(both, side) for side in sides)
    decoded = FLOAT * (sum(sides) * both + 4 * DORA_ROWS * pair.columns) if dora else 0
    at_a_time = max(6 * blocks + gram, 4 * joint + cores) + decoded
    return factor_bytes(pair) + 3 * gram + at_a_time + 6 * stored_bytes


def compare_bytes(a: LoraPair, b: LoraPair | None = None) -> int:
    """Return what comparing one module takes: the joined factors, and every direction of both updates."""
    if b is None:
        return audit_bytes(a)
    if (a.rows, a.columns) != (b.rows, b.columns):  # each by itself
        return max(audit_bytes(a), audit_bytes(b))
    both, sides = a.rank + b.rank, (a.rows, a.columns)
    joint = max(block_bytes(both, side, max(4 * both, 1024)) for side in sides)
    cores = sum(core_bytes(both, side) for side in sides)
    small = [min(both, side) for side in sides]
    directions = FLOAT * (2 * small[0] * small[1] + 2 * sum(side**2 for side in small) + 4 * max(small) ** 2)
    return factor_bytes(a) + factor_bytes(b) + cores + max(4 * joint, directions)
