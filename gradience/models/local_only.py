"""Checks which inputs of a run are available locally, without downloading."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LOCAL_ONLY: ContextVar[bool] = ContextVar("local_only", default=False)


class NotHereError(Exception):
    """Something would have to be fetched, which a run would do. Raised only inside `local_only`."""


@contextmanager
def local_only() -> Iterator[None]:
    """Inside the block, any attempt to fetch a model or data raises NotHereError."""
    token = _LOCAL_ONLY.set(True)
    try:
        yield
    finally:
        _LOCAL_ONLY.reset(token)


def is_local_only() -> bool:
    """Return True if nothing may be fetched now."""
    return _LOCAL_ONLY.get()


def would_fetch(name: str) -> None:
    """Call this before downloading `name`. Raises NotHereError inside `local_only`."""
    if is_local_only():
        raise NotHereError(name)
