"""Opening a file to read it: the one place. Regular files only, up to a size, and never a wait.

A pipe would block for ever, /dev/zero has no end, a sparse file of 20 GB takes no disk and all of the memory. Whatever
path a person or a stranger's folder gives is opened here (a test looks for other ways): without waiting, a regular file
only, of at most the bytes that its kind may have.
"""

import errno
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from gradience.errors import InputError, ReadError

BLOCK = 4 * 2**20
"""Bytes in memory at a time of a file that is read through."""
MAX_SETTINGS_BYTES = 16 * 2**20
"""A small JSON or code file: an explicit rank and alpha for 50,000 modules needs about 10 MB."""
MAX_DATA_BYTES = 2**30
"""A file of rows (a task's examples, records of an evaluation) that is held in memory whole."""


def open_regular(path: Path, *, root: Path | None = None, limit: int | None = None) -> int:
    """A read-only descriptor of a regular file. Never blocks on a FIFO or a device.

    root: the folder that the file must stay in after symbolic links are resolved. The layout of the
    Hugging Face cache (see `_in_hub_cache`) is the one exception.
    limit: bytes that it may have.
    Raises InputError: not-found, not-a-file, symlink-outside, too-large; ReadError: unreadable.
    """
    if root is not None:
        _refuse_escape(path, root)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_open(path, error) from None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        raise not_a_file(path)
    if limit is not None and facts.st_size > limit:
        os.close(handle)
        raise InputError(
            f"{path}: {facts.st_size:,} bytes (limit: {limit:,})",
            code="too-large",
            hint="check the path; if it is right, download or save this file again",
        )
    return handle


def check_regular(path: Path, *, limit: int | None = None) -> None:
    """Raise what `open_regular` raises: for a file that a library then opens by its name."""
    os.close(open_regular(path, limit=limit))


def open_stream(path: Path, *, limit: int | None = None) -> BufferedReader:
    """The file, open for reading bytes piece by piece. Raises as `open_regular` does."""
    return os.fdopen(open_regular(path, limit=limit), "rb")


def read_file(path: Path, limit: int, *, root: Path | None = None) -> bytes:
    """A whole file of at most `limit` bytes. Raises as `open_regular` and `pread` do."""
    handle = open_regular(path, root=root, limit=limit)
    try:
        return pread(handle, os.fstat(handle).st_size, 0, path)
    finally:
        os.close(handle)


def cannot_open(path: Path, error: OSError) -> InputError:
    """Return the error for a failed `open` or `stat` of `path`: not-found, not-a-file, unreadable (ReadError)."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and os.path.islink(path):
        return InputError(
            f"{path}: a symbolic link to {os.readlink(path)}, which does not exist",
            code="not-found",
            hint="download it again: a cache was cleaned, or a folder was copied without the targets of its links",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return InputError(f"{path}: no such file or folder", code="not-found", hint="check the path")
    if error.errno == errno.ELOOP:
        return InputError(
            f"{path}: symbolic links that form a loop",
            code="not-found",
            hint="replace the link with the file",
        )
    if error.errno in (errno.ENXIO, errno.EISDIR):  # a socket, a folder
        return not_a_file(path)
    return ReadError(
        f"{path}: cannot be opened: {error.strerror}",
        code="unreadable",
        hint="check the permissions of the file and its folder",
    )


def not_a_file(path: Path) -> InputError:
    """Return the error for a path that is not a regular file."""
    return InputError(
        f"{path}: not a regular file (a folder, pipe, socket or device)",
        code="not-a-file",
        hint="point at the file itself",
    )


def _refuse_escape(path: Path, root: Path) -> None:
    # Not Path.resolve(): before Python 3.13 it raises RuntimeError on links that lead in a circle.
    target, home = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if target.is_relative_to(home) or _in_hub_cache(target, home):
        return
    raise InputError(
        f"{path}: a symbolic link that leaves the adapter's folder (to {target})",
        code="symlink-outside",
        hint="copy the file into the folder, or point at the folder where the files really are",
    )


def _in_hub_cache(target: Path, home: Path) -> bool:
    """Return True if `home` is (in) a `snapshots/<commit>` folder and `target` is in the `blobs` beside `snapshots`.

    From huggingface_hub 2 on, a blob that came through Xet is a link to `blobs/<2 digits>/<digest>` of the whole cache.
    """
    for snapshot in (home, *home.parents):
        if snapshot.parent.name == "snapshots":
            repository = snapshot.parent.parent
            shared = repository.parent / "blobs" / target.name[:2] / target.name
            if target.parent == repository / "blobs" or (target == shared and len(target.name) == 64):
                return True
    return False


def pread(handle: int, size: int, offset: int, path: Path) -> bytes:
    """Exactly `size` bytes at `offset`. A positioned read: a file that shrinks is an error here, not a crash.

    Raises InputError (truncated), ReadError (unreadable).
    """
    parts: list[bytes] = []  # one, unless a read returns fewer bytes than requested
    done = 0
    while done < size:
        try:
            part = os.pread(handle, size - done, offset + done)
        except OSError as error:
            raise ReadError(
                f"{path}: reading failed: {error.strerror}",
                code="unreadable",
                hint="check the disk, or copy the adapter to another one",
            ) from None
        if not part:
            raise truncated(path, expected=offset + size, actual=offset + done)
        parts.append(part)
        done += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def pread_blocks(handle: int, size: int, offset: int, path: Path) -> Iterator[bytes]:
    """`size` bytes at `offset`, a few MB at a time. Raises InputError as `pread` does."""
    for start in range(0, size, BLOCK):
        yield pread(handle, min(BLOCK, size - start), offset + start, path)


def truncated(path: Path, *, expected: int, actual: int) -> InputError:
    """The error for a file that ends too early."""
    return InputError(
        f"{path}: truncated: {expected:,} bytes expected, {actual:,} found",
        code="truncated",
        hint="download or copy it again; `hf cache verify` checks a cached download",
    )
