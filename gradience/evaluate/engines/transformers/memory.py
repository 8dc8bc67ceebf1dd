"""A device that is full, however torch says so: one error for all of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradience.evaluate.engines.base import OutOfMemoryError

SAID_SO = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "not enough memory")
"""In the RuntimeErrors of the processor's allocator (torch 2.13: `DefaultCPUAllocator: can't allocate memory: you tried
to allocate … bytes`; on Windows `not enough memory`), of MPS, and of cuBLAS."""


@contextmanager
def memory() -> Iterator[None]:
    """Raise OutOfMemoryError for what torch raises inside the block when there is no room."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemoryError((str(error).splitlines() or [type(error).__name__])[0]) from None


def lacks_memory(error: BaseException) -> bool:
    """Whether `error` says that memory could not be had."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID_SO)


def free_cached() -> None:
    """Give back what torch keeps of memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
