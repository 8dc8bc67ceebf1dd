"""Whole files and folders: temporary name, lock, fsync, rename. One writer at a time.

A writer of `name` works in `.name.<random>.tmp` beside it. If it is killed, only the next writer can remove that file,
and it must not remove the work of a running process. So a writer locks its temporary file, and the system releases the
lock when the process ends for any reason. On a file system without locks, nothing is removed.
"""

import ctypes
import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from gradience.errors import InputError, LockedError, OutputError, UsageError

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
            if _kept(file.fileno(), scratch):
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
            if _kept(handle, scratch):
                try:
                    yield scratch
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
                return
        finally:
            os.close(handle)


def _kept(handle: int, scratch: Path) -> bool:
    """Lock a new file or folder; return False if it was swept between its making and its locking."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.path.lexists(scratch)


def lock_alone(handle: int, output: Path, *, wait: float = 0.0) -> None:
    """Lock an open file of `output` against a second run. wait: seconds. Raises LockedError (output-locked)."""
    until = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until:
                time.sleep(0.02)
                continue
            raise LockedError(
                f"{output}: another run is writing here",
                code="output-locked",
                hint="wait until it ends, or give another --output",
            ) from None
        except OSError:  # a file system without locks
            return
        return


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
def held(folder: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Lock an existing folder against a second run. wait: seconds. Raises LockedError (output-locked), OSError."""
    with open(folder / LOCK, "ab") as file:
        lock_alone(file.fileno(), folder, wait=wait)
        yield


@contextmanager
def only_one(folder: Path, *, wait: float = MOMENT) -> Iterator[None]:
    """Hold the output against a second run, and clear away what killed ones left half-written.

    The system lets go of the lock when the process ends, however it ends. wait: seconds for which to wait for that.
    Raises LockedError (`output-locked`), InputError (`symlink-outside`), OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    with held(folder, wait=wait):
        sweep_below(folder)
        yield


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
    hint = "choose another output, or replace it with --force (Python: force=True)"
    return UsageError(f"{output}: already exists", code="output-exists", hint=hint)


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
