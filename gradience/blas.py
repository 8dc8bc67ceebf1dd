"""BLAS threads: one, while modules are spread over our own threads.

Many small products gain nothing from several BLAS threads, and on a busy machine they wait for each other
(measured: 26 to 78 s instead of 3 to 6 s for the same adapter). It also makes the last bits independent of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Limit BLAS to one thread inside the block, and restore what was set before."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
