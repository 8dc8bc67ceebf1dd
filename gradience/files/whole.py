"""Atomic writes of files and folders: temporary name, fsync, rename.

A temporary file is locked while it is written (see `scratch`). The next writer removes the remains of killed writers
(`.<name>.<random>.tmp`, `.<name>.<random>.old`), which are not locked.
"""

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from gradience.errors import OutputError, UsageError
from gradience.files.scratch import (
    abandoned,
    left_beside,
    remove,
    scratch_beside,
    scratch_file,
    scratch_folder,
    sweep_beside,
)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn disk and permission errors in the block into OutputError (`write-failed`)."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot write: {error.strerror or error}",
            code="write-failed",
            hint="check the folder, its permissions and the free space",
        ) from None


def write_whole(path: Path, chunks: Iterable[bytes]) -> Path:
    """Write `chunks` to `path` so that the file is either the old one or the complete new one.

    The temporary file is in the same folder (a rename is atomic only within one file system); file and folder are
    synced. What killed writers of the same file left is removed. Raises OutputError (code `write-failed`).
    """
    sweep_beside(path)
    with write_errors(path):
        with scratch_file(path) as (scratch, file):
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            os.replace(scratch, path)
        sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable (a no-op if folders cannot be opened)."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_output(output: Path, source: Path, *, force: bool) -> None:
    """Refuse an output that exists, or that is inside the adapter at `source` or contains it.

    source: the adapter's folder, or a file in it.
    Raises UsageError (output-exists, output-is-input, not-ours), OutputError (write-failed).
    """
    with write_errors(output):
        there, here = _resolved(output), _resolved(source)
        here = here.parent if here.is_file() else here
        _finish_interrupted(there)
        if there == here or there in here.parents or here in there.parents:
            raise UsageError(
                f"{output}: the output is the adapter itself, is inside it, or contains it",
                code="output-is-input",
                hint="choose another output folder",
            )
        if not os.path.lexists(there):
            return
        if not force:
            raise already_exists(output)
        if not there.is_dir() or (any(there.iterdir()) and not (there / "adapter_config.json").exists()):
            raise UsageError(
                f"{output}: not an adapter folder, so it is not replaced (--force replaces adapters only)",
                code="not-ours",
                hint="choose another output folder",
            )


def _resolved(path: Path) -> Path:
    """Return `path` without links; it need not exist. Raises OSError for a cycle of links on every Python."""
    try:
        path.stat()  # Path.resolve() raises RuntimeError for a circle up to Python 3.12, and nothing from 3.13 on
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
    return Path(os.path.realpath(path))


def already_exists(output: Path) -> UsageError:
    """Return the error for an output that is only replaced with force."""
    return UsageError(
        f"{output}: already exists",
        code="output-exists",
        hint="choose another output, or replace it with --force (Python: force=True)",
    )


@contextmanager
def whole_folder(output: Path, *, force: bool) -> Iterator[Path]:
    """Yield a temporary folder that replaces `output` if the block succeeds, and is removed if it fails.

    force: replace an existing folder. Without it, a folder created in the meantime is kept.
    Raises OutputError (code write-failed) for disk and permission errors, UsageError (output-exists).
    """
    with write_errors(output):
        place = _resolved(output)  # a link stays a link: what it points at is replaced
        place.parent.mkdir(parents=True, exist_ok=True)
        _finish_interrupted(place)
        with scratch_folder(place) as scratch:
            yield scratch
            _sync(scratch)
            if force:
                _swap(scratch, place)
            else:
                try:
                    _rename_unless_there(scratch, place)
                except FileExistsError:
                    raise already_exists(output) from None
        sync_folder(place.parent)


def _sync(folder: Path) -> None:
    """Sync every file in `folder` to the disk."""
    for entry in folder.rglob("*"):
        if entry.is_file():
            with entry.open("rb") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def _rename_unless_there(scratch: Path, place: Path) -> None:
    """Raises FileExistsError: the check before the work may be long ago. A folder with files makes a rename fail."""
    try:
        scratch.rename(place)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise FileExistsError(error.errno, error.strerror, str(place)) from None
        raise


def _swap(scratch: Path, place: Path) -> None:
    """Exchange `scratch` with `place`; the previous folder is removed together with `scratch`.

    Concurrent writers each replace either the previous folder or one another's result.
    """
    while True:
        try:
            if not exchange(scratch, place):
                _swap_by_renames(scratch, place)
            return
        except FileNotFoundError:
            with suppress(FileExistsError):
                _rename_unless_there(scratch, place)
                return


def _swap_by_renames(scratch: Path, place: Path) -> None:
    """Fallback for systems without an atomic exchange. The next run repairs a kill between the renames."""
    aside = scratch_beside(place, "old")
    place.rename(aside)
    try:
        scratch.rename(place)
    except OSError:
        aside.rename(place)
        raise
    remove(aside)


def _finish_interrupted(place: Path) -> None:
    """Remove what killed runs left beside `place`; restore the old folder if a run was killed between its two renames.

    Nothing is changed while a different run is writing to the same place.
    """
    rests = left_beside(place)
    with ExitStack() as locks:
        if not all(locks.enter_context(abandoned(rest)) for rest in rests):
            return
        for rest in rests:
            if rest.suffix == ".old" and not os.path.lexists(place):
                with suppress(FileNotFoundError):  # the process that moved it has just removed it
                    rest.rename(place)
            else:
                remove(rest)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


@cache
def _renameat2() -> Any:
    """The function of glibc (2.28) or musl (1.2.6); None elsewhere."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def exchange(first: Path, second: Path) -> bool:
    """Atomically exchange two paths on one file system. Return False if the system or file system does not
    support it.

    Source: renameat2(2), RENAME_EXCHANGE. Raises OSError (FileNotFoundError if one path is missing).
    """
    call = _renameat2()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))
