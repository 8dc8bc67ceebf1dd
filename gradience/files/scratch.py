"""Temporary files and folders, named after their target, locked by their writer and removed when abandoned.

A process that is killed while it writes `name` leaves `.name.<random>.tmp` beside it. Only the next writer
can remove that file, and it must not remove the work of a running process. So a writer locks its temporary
file, and the system releases the lock when the process ends for any reason. On a file system without locks,
nothing is removed.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gradience.errors import LockedError

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(tmp|old)", re.DOTALL)


def scratch_beside(path: Path, kind: str = "tmp") -> Path:
    """Return a new name beside `path` for its replacement (`tmp`) or for its previous content (`old`)."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{kind}")


@contextmanager
def scratch_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside `path`, locked; gone at the end unless it was renamed. Raises OSError."""
    while True:
        scratch = scratch_beside(path)
        with open(scratch, "xb") as file:
            lock(file.fileno())
            if not os.fstat(file.fileno()).st_nlink:
                continue  # swept between its making and its locking
            try:
                yield scratch, file
            finally:
                scratch.unlink(missing_ok=True)
            return


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, locked; gone at the end unless it was renamed. Raises OSError."""
    while True:
        scratch = scratch_beside(path)
        scratch.mkdir()
        try:
            handle = os.open(scratch, os.O_RDONLY)
        except FileNotFoundError:
            continue  # swept between its making and its opening
        try:
            lock(handle)
            if not os.path.lexists(scratch):
                continue  # swept between its making and its locking
            try:
                yield scratch
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            return
        finally:
            os.close(handle)


def lock(handle: int) -> None:
    """Say that a living process works on the open file or folder."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)


def lock_alone(handle: int, output: Path) -> None:
    """Lock an open file or folder of `output` against a second run. Raises LockedError (output-locked), OSError."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise already_locked(output) from None


def already_locked(output: Path) -> LockedError:
    """Return the error for an output that another run writes to."""
    return LockedError(
        f"{output}: another run is writing here",
        code="output-locked",
        hint="wait until it ends, or give another --output",
    )


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock an existing folder against a second run. Raises LockedError (output-locked), OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks
            lock_alone(handle, folder)
        yield
    finally:
        os.close(handle)


@contextmanager
def abandoned(scratch: Path) -> Iterator[bool]:
    """Yield True if no running process uses it. No process can start to use it during the block, so it can be
    removed.
    """
    try:
        handle = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
    finally:
        os.close(handle)


def left_beside(path: Path) -> list[Path]:
    """Return the temporary paths (`tmp` and `old`) of running or killed writers of `path`."""
    try:
        names = sorted(os.listdir(path.parent))
    except OSError:  # it is not there, or may be written and not read
        return []
    matches = (_TEMPORARY.fullmatch(name) for name in names)
    return [path.with_name(match[0]) for match in matches if match and match[1] == path.name]


def sweep_beside(path: Path) -> None:
    """Remove the temporary files that killed processes left of `path`."""
    _sweep(left_beside(path))


def sweep_below(folder: Path) -> None:
    """Remove every temporary file and folder that a killed process left in `folder`, at any depth."""
    _sweep([entry for entry in folder.rglob(".*.tmp") if _TEMPORARY.fullmatch(entry.name)])


def _sweep(entries: Iterable[Path]) -> None:
    for entry in entries:
        if entry.suffix == ".tmp":
            with abandoned(entry) as free:
                if free:
                    remove(entry)


def remove(entry: Path) -> None:
    """Delete a file or a folder as far as the system lets us."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with suppress(OSError):
            entry.unlink()
