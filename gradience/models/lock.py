"""One writer at a time: a folder of results is held against a second run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradience.artifacts.scratch import sweep_below
from gradience.errors import LockedError


@contextmanager
def only_one(folder: Path, *, wait: float = 0) -> Iterator[None]:
    """Hold the output against a second run, and clear away what killed ones left half-written.

    The system lets go of the lock when the process ends, however it ends. wait: seconds for which to wait for that.
    Raises LockedError (`output-locked`).
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=wait):
            sweep_below(folder)
            yield
    except Timeout:
        raise LockedError(
            f"{folder}: another run is writing here",
            code="output-locked",
            hint="wait until it ends, or give another --output",
        ) from None
