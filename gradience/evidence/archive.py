"""Members of an untrusted zip archive, one at a time: a bounded directory, bounded contents, nothing unpacked to disk.

Stored, deflated and Zstandard members are read; the last needs the extra `logs` (Python's own zipfile reads them from
3.14 on).
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from gradience.errors import InputError, require
from gradience.reading import MAX_DATA_BYTES, open_stream

MAX_MEMBER = 64 * 2**20
"""Bytes of one member."""
MAX_DIRECTORY = 16 * 2**20
"""Bytes of the list of members: 200,000 samples."""
FREE, RATIO = 64 * 2**20, 250
"""All members together: 64 MiB and 250 times the archive, at most as much as any file of data."""
ZSTANDARD = 93
END, END_SIZE = b"PK\x05\x06", 22
END_64, SIZE_64 = b"PK\x06\x06", 76
LOCAL_SIZE = 30


class Archive:
    """An open archive; `read` gives a member, and counts what has been read."""

    def __init__(
        self, path: Path, file: BufferedReader, members: dict[str, zipfile.ZipInfo], size: int
    ) -> None:
        self.path, self.members = path, members
        self._file, self._archive_size = file, size
        self._left = min(FREE + RATIO * size, MAX_DATA_BYTES)

    def read(self, name: str) -> bytes:
        """Return the content of a member. Raises InputError (`bad-archive`, `too-large`), MissingExtra."""
        info = self.members[name]
        limit = min(MAX_MEMBER, self._left)
        content = self._content(info, limit)
        if len(content) > limit:
            raise InputError(
                f"{self.path}: {name!r:.200}: longer than {limit:,} bytes",
                code="too-large",
                hint="split the log, or write one without events",
            )
        if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
            raise self.broken(f"{name!r:.200}: its content is not what the directory says")
        self._left -= len(content)
        return content

    def _content(self, info: zipfile.ZipInfo, limit: int) -> bytes:
        """At most one byte more than `limit`."""
        packed = self._packed(info)
        if info.compress_type == zipfile.ZIP_STORED:
            return packed[: limit + 1]
        if info.compress_type == zipfile.ZIP_DEFLATED:
            try:
                return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit + 1)
            except zlib.error as error:
                raise self.broken(f"{info.filename!r:.200}: {error}") from None
        if info.compress_type == ZSTANDARD:
            zstandard = require("zstandard", extra="logs")
            decompressor = zstandard.ZstdDecompressor(max_window_size=2**27)
            try:
                with decompressor.stream_reader(packed, read_across_frames=True) as reader:
                    return bytes(reader.read(limit + 1))
            except zstandard.ZstdError as error:
                raise self.broken(f"{info.filename!r:.200}: {error}") from None
        raise self.broken(f"{info.filename!r:.200}: packed in a way that is not read ({info.compress_type})")

    def _packed(self, info: zipfile.ZipInfo) -> bytes:
        """Return the bytes of a member as stored in the archive."""
        if info.flag_bits & 1 or info.compress_size > self._archive_size or info.header_offset < 0:
            raise self.broken(
                f"{info.filename!r:.200}: encrypted, longer than the archive, or before its beginning"
            )
        self._file.seek(info.header_offset)
        header = self._file.read(LOCAL_SIZE)
        if len(header) < LOCAL_SIZE or not header.startswith(b"PK\x03\x04"):
            raise self.broken(f"{info.filename!r:.200}: not where the directory says")
        name, extra = struct.unpack("<HH", header[26:])
        self._file.seek(name + extra, 1)
        packed = self._file.read(info.compress_size)
        if len(packed) < info.compress_size:
            raise self.broken(f"{info.filename!r:.200}: cut off")
        return packed

    def broken(self, problem: str) -> InputError:
        """The error for an archive that cannot be read."""
        return _broken(self.path, problem)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open the archive at `path`. Of two members of one name the later one counts, as for every reader of zip.

    Raises InputError (`bad-archive`, and what `open_stream` raises).
    """
    with open_stream(path, limit=MAX_DATA_BYTES) as file:
        size = file.seek(0, 2)
        _check_directory(path, file, size)
        try:
            with zipfile.ZipFile(file) as archive:
                members = {info.filename: info for info in archive.infolist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, OverflowError, struct.error) as error:
            raise _broken(path, str(error)) from None
        yield Archive(path, file, members, size)


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
            f"{path}: its list of members has {length:,} bytes, and at most {MAX_DIRECTORY:,} are read",
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
