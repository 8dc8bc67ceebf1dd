"""Modules spread over threads of our own, each with one BLAS thread.

Many small products gain nothing from several BLAS threads, and on a busy machine they wait for each other
(measured: 26 to 78 s instead of 3 to 6 s for the same adapter). It also makes the last bits independent of them.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from threadpoolctl import threadpool_limits

from gradience.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def worker_threads(workers: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of `workers` threads, by default one a processor; BLAS has one thread until it is left."""
    with threadpool_limits(limits=1, user_api="blas"), ThreadPoolExecutor(workers or processors()) as pool:
        yield pool


def map_in_order(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    progress: Progress | None,
) -> list[Result]:
    """Return `function` of every item, worked out in the pool, in the order of `items`."""
    results: list[Result] = []
    for result in pool.map(function, items):
        results.append(result)
        if progress:
            progress(len(results), len(items))
    return results


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
