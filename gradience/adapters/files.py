"""Opening a stranger's file: regular files only, inside their folder, and named for what they really are."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from gradience.adapters.strict_json import BOM
from gradience.errors import InputError

_LFS = b"version https://git-lfs.github.com/spec/"
BLOCK = 4 * 2**20
"""Bytes in memory at a time of a file that is read through."""
PICKLE_HINT = (
    "pickle files can run code, so they are not opened here; load the adapter with PEFT where you trust it "
    "and save it again: PeftModel.from_pretrained(base, folder).save_pretrained(new, safe_serialization=True)"
)
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of a pickle under any name: no text in UTF-8 begins so."""
GGUF_HINT = "audit the PEFT adapter that the GGUF file was converted from"
_ARCHIVE = "unpack it, and point at the adapter's folder"
_OTHER = "point at the .safetensors file"
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "a GGUF file", GGUF_HINT),
    (b"PK\x03\x04", "a zip archive (what torch.save writes)", PICKLE_HINT),
    *((start, "a Python pickle", PICKLE_HINT) for start in PICKLE_STARTS),
    (b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (b"BZh", "a bzip2 archive", _ARCHIVE),
    (b"\xfd7zXZ", "an xz archive", _ARCHIVE),
    (b"7z\xbc\xaf", "a 7z archive", _ARCHIVE),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive", _ARCHIVE),
    (b"\x93NUMPY", "a numpy array", _OTHER),
    (b"\x89HDF", "an HDF5 file", _OTHER),
)
_TAR = slice(257, 262)
"""Where a tar archive has its magic bytes, `ustar`."""


class Closing:
    """What has something to close: a context manager that calls `close` at its end."""

    def close(self) -> None:
        """Release what is open."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_regular(path: Path, *, root: Path | None = None) -> int:
    """A read-only descriptor of a regular file. Never blocks on a FIFO or a device.

    root: the folder that the file must stay in after symbolic links are resolved. The layout of the
    Hugging Face cache (`snapshots/<commit>/file` -> `../../blobs/<digest>`) is the one exception.
    Raises InputError: not-found, not-a-file, symlink-outside, unreadable.
    """
    if root is not None:
        _refuse_escape(path, root)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise cannot_open(path, error) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise _not_a_file(path)
    return handle


def cannot_open(path: Path, error: OSError) -> InputError:
    """What a failed `open` or `stat` of `path` means to a person: not-found, not-a-file or unreadable."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR) and os.path.islink(path):
        return InputError(
            f"{path}: a symbolic link to {os.readlink(path)}, which does not exist",
            code="not-found",
            hint="a cache that was cleaned or a folder that was copied without its targets: download it again",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return InputError(f"{path}: no such file or folder", code="not-found", hint="check the path")
    if error.errno == errno.ELOOP:
        return InputError(
            f"{path}: symbolic links that lead in a circle",
            code="not-found",
            hint="replace the link by the file",
        )
    if error.errno == errno.ENXIO:  # a socket
        return _not_a_file(path)
    return InputError(
        f"{path}: cannot be opened: {error.strerror}",
        code="unreadable",
        hint="check the permissions of the file and of its folder",
    )


def _not_a_file(path: Path) -> InputError:
    return InputError(
        f"{path}: not a regular file (a folder, pipe, socket or device)",
        code="not-a-file",
        hint="point at the adapter's folder or at its .safetensors file",
    )


def _refuse_escape(path: Path, root: Path) -> None:
    # Not Path.resolve(): before Python 3.13 it raises RuntimeError on links that lead in a circle.
    target, home = Path(os.path.realpath(path)), Path(os.path.realpath(root))
    if target.is_relative_to(home) or _in_hub_cache(target, home):
        return
    raise InputError(
        f"{path}: a symbolic link that leaves the adapter's folder (to {target})",
        code="symlink-outside",
        hint="copy the file into the folder, or point at the place where the files really are",
    )


def _in_hub_cache(target: Path, home: Path) -> bool:
    """Whether `home` is (in) a `snapshots/<commit>` folder and `target` lies in the `blobs` beside `snapshots`."""
    return any(
        snapshot.parent.name == "snapshots" and target.parent == snapshot.parent.parent / "blobs"
        for snapshot in (home, *home.parents)
    )


def pread(handle: int, size: int, offset: int, path: Path) -> bytearray:
    """Exactly `size` bytes at `offset`. A positioned read: a file that shrinks is an error here, not a crash.

    Raises InputError (code truncated, unreadable).
    """
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        try:
            count = os.preadv(handle, [view[done:]], offset + done)
        except OSError as error:
            raise InputError(
                f"{path}: reading failed: {error.strerror}", code="unreadable", hint="check the disk"
            ) from None
        if count == 0:
            raise truncated(path, expected=offset + size, actual=offset + done)
        done += count
    return buffer


def pread_blocks(handle: int, size: int, offset: int, path: Path) -> Iterator[bytearray]:
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


def read_small(path: Path, limit: int, *, root: Path | None = None) -> bytes:
    """A whole small file. Raises InputError (also code too-large)."""
    handle = open_regular(path, root=root)
    try:
        size = os.fstat(handle).st_size
        if size > limit:
            raise InputError(
                f"{path}: {size:,} bytes, more than the {limit:,} that such a file may have",
                code="too-large",
                hint="this is not the file it seems to be",
            )
        return bytes(pread(handle, size, 0, path))
    finally:
        os.close(handle)


def refuse_placeholder(path: Path, head: bytes) -> None:
    """Raise InputError when `head` (the first bytes) shows that this only stands in the place of a file.

    Codes: empty-file, lfs-pointer, html-page.
    """
    if not head:
        raise InputError(
            f"{path}: the file is empty", code="empty-file", hint="download or save the adapter again"
        )
    if head.startswith(_LFS):
        size = re.search(rb"^size (\d{1,19})$", head, re.MULTILINE)
        real = f" of a file of {int(size[1]):,} bytes" if size else ""
        raise InputError(
            f"{path}: a Git LFS pointer{real}, not the file itself",
            code="lfs-pointer",
            hint="run `git lfs pull` in the repository, or download it with `hf download`",
        )
    start = head.removeprefix(BOM).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{path}: a web page, not the file itself (a download that ended on an error or login page)",
            code="html-page",
            hint="download it again with `hf download`, logged in if the repository is gated",
        )


def refuse_disguise(path: Path, head: bytes) -> None:
    """Raise InputError when `head` shows that the file is something else than its name says.

    Codes: those of `refuse_placeholder`, and wrong-format.
    """
    refuse_placeholder(path, head)
    matches = [(what, hint) for magic, what, hint in _MAGICS if head.startswith(magic)]
    if head[_TAR] == b"ustar":
        matches.append(("a tar archive", _ARCHIVE))
    for what, hint in matches:
        raise InputError(f"{path}: this is {what}", code="wrong-format", hint=hint)


def refuse_text(path: Path, head: bytes) -> None:
    """Raise InputError (code wrong-format) when `head` begins a JSON text in the place of weights."""
    start = head.removeprefix(BOM).lstrip()
    if start.startswith((b"{", b"[")) and b"\0" not in start:
        shown = start[:60].decode("utf-8", "replace")
        raise InputError(
            f"{path}: a JSON text, not weights (it begins {shown!r}: the error message of a server, or a config?)",
            code="wrong-format",
            hint="download the weights again, and look at what the server answers",
        )
