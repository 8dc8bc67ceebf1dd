"""One writer at a time: a folder of results is locked against a second run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gradience.errors import InputError
from gradience.files.scratch import abandoned, already_locked, sweep_below

LOCK = ".lock"
MOMENT = 1.0
"""Seconds to wait for a process that only checks whether the folder is locked."""


def is_held(folder: Path) -> bool:
    """Return True if a process holds the folder."""
    if not (folder / LOCK).is_file():
        return False
    with abandoned(folder / LOCK) as free:
        return not free


@contextmanager
def only_one(folder: Path, *, wait: float = MOMENT) -> Iterator[None]:
    """Hold the output against a second run, and clear away what killed ones left half-written.

    The system lets go of the lock when the process ends, however it ends. wait: seconds for which to wait for that.
    Raises LockedError (`output-locked`), InputError (`symlink-outside`).
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    try:
        with FileLock(folder / LOCK, timeout=wait):
            sweep_below(folder)
            yield
    except Timeout:
        raise already_locked(folder) from None


def refuse_links(folder: Path) -> None:
    """Raise InputError (`symlink-outside`) for a link in the output through which a run would write elsewhere."""
    home = os.path.join(os.path.realpath(folder), "")
    for above, folders, files in os.walk(folder):
        for path in (os.path.join(above, name) for name in (*folders, *files)):
            if os.path.islink(path) and not os.path.realpath(path).startswith(home):
                raise InputError(
                    f"{path}: a symbolic link that leads out of the output {folder}; writing was refused",
                    code="symlink-outside",
                    hint=f"remove the link, or give another output than {folder}",
                )
