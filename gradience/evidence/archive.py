"""Members of an untrusted zip archive, one at a time: a bounded directory, bounded contents, nothing unpacked to disk.

Stored, deflated and Zstandard members are read; the last needs the extra `logs` (Python's own zipfile reads them from
3.14 on).
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

from gradience.errors import InputError, require
from gradience.reading import MAX_DATA_BYTES, open_stream

MAX_MEMBER = 64 * 2**20
"""Bytes of one member."""
MAX_DIRECTORY = 16 * 2**20
"""Bytes of the list of members: 200,000 samples."""
FREE, RATIO = 64 * 2**20, 250
"""All members together: 64 MiB and 250 times the archive, at most as much as any file of data."""
ZSTANDARD = 93
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, OSError, ValueError, EOFError,
)  # fmt: skip
"""Errors that zipfile raises for a damaged, encrypted or unknown member."""
END, END_SIZE = b"PK\x05\x06", 22
END_64, SIZE_64 = b"PK\x06\x06", 76


class Archive:
    """An open archive; `read` gives a member, and counts what has been read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, size: int) -> None:
        self.path, self._archive = path, archive
        self.members = {info.filename: info for info in archive.infolist()}
        self._left = min(FREE + RATIO * size, MAX_DATA_BYTES)

    def read(self, name: str) -> bytes:
        """Return the content of a member. Raises InputError (`bad-archive`, `too-large`), MissingExtra."""
        info = self.members[name]
        limit = min(MAX_MEMBER, self._left)
        is_zstandard = info.compress_type == ZSTANDARD
        zstandard = require("zstandard", extra="logs") if is_zstandard else None
        of_zstandard = () if zstandard is None else (zstandard.ZstdError,)
        unreadable: tuple[type[Exception], ...] = (*UNREADABLE, *of_zstandard)
        try:
            with self._archive.open(_as_stored(info) if is_zstandard else info) as packed:
                content = _unpacked(zstandard, packed, limit + 1) if zstandard else packed.read(limit + 1)
        except unreadable as error:
            raise _broken(self.path, f"{name!r:.200}: {error}") from None
        if len(content) > limit:
            raise InputError(
                f"{self.path}: {name!r:.200}: longer than {limit:,} bytes",
                code="too-large",
                hint="split the log, or write one without events",
            )
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise _broken(self.path, f"{name!r:.200}: its content is not what the directory says")
        self._left -= len(content)
        return content


def _as_stored(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Return the entry of a member whose packed bytes are to be read as they are."""
    stored = copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    del stored.CRC
    return stored


def _unpacked(zstandard: Any, packed: IO[bytes], most: int) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
    with decompressor.stream_reader(packed, read_across_frames=True) as reader:
        return bytes(reader.read(most))


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open the archive at `path`. Of two members of one name the later one counts, as for every reader of zip.

    Raises InputError (`bad-archive`, and what `open_stream` raises).
    """
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        size = file.seek(0, 2)
        _check_directory(path, file, size)
        try:
            archive = Archive(path, zipfile.ZipFile(file), size)
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            raise _broken(path, str(error)) from None
        yield archive


def _check_directory(path: Path, file: BufferedReader, size: int) -> None:
    """Refuse a directory that would not fit into memory, before zipfile reads it."""
    file.seek(max(0, size - END_SIZE - 2**16))
    end = file.read()
    at = len(end) - END_SIZE
    if not (at >= 0 and end[at:].startswith(END)):
        at = end.rfind(END)
    if at < 0 or len(end) - at < END_SIZE:
        raise _broken(path, "no directory at its end: cut off, or no zip archive")
    (length,) = struct.unpack_from("<L", end, at + 12)
    at_64 = end.rfind(END_64, 0, at)
    if at_64 >= 0 and len(end) - at_64 >= 56:
        length = max(length % 0xFFFFFFFF, struct.unpack_from("<Q", end, at_64 + 40)[0])
    if length > MAX_DIRECTORY:
        raise InputError(
            f"{path}: its list of members has {length:,} bytes (limit: {MAX_DIRECTORY:,})",
            code="too-large",
            hint="split the log by task",
        )
    before_end = max(0, size - END_SIZE - 2**16) + at - (SIZE_64 if at_64 >= 0 else 0)
    if length > before_end:  # zipfile would look for it before the beginning
        raise _broken(path, "its list of members does not fit into it")


def _broken(path: Path, problem: str) -> InputError:
    return InputError(
        f"{path}: {problem}", code="bad-archive", hint="copy the log again: it is damaged, or not finished"
    )
