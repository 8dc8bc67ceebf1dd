"""A device that is full, however torch says so: one error for all of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.models.devices import lacks_memory


@contextmanager
def memory() -> Iterator[None]:
    """Raise OutOfMemoryError for what torch raises inside the block when there is no room."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemoryError((str(error).splitlines() or [type(error).__name__])[0]) from None


def free_cached() -> None:
    """Give back what torch keeps of memory that nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
