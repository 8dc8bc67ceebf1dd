"""A strict, streaming reader and an atomic writer of safetensors files.

Stricter than the reference: duplicate keys are refused as well (two readers could see different weights),
and nothing is mapped into memory, since a mapped file that shrinks kills the process.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gradience.adapters import strict_json
from gradience.adapters.dtypes import DTYPES, DType, Words
from gradience.adapters.files import Closing, refuse_disguise, refuse_text
from gradience.digests import sha256_parts
from gradience.errors import InputError
from gradience.reading import open_regular, pread, pread_blocks, truncated

MAX_HEADER_BYTES = 32 * 2**20
"""100,000 tensors need about 12 MB; the reference implementation allows 100 MB."""
MAX_TENSORS = 200_000
MAX_NAME = 1024
"""Characters; real names have fewer than 200."""
MAX_DIMENSIONS = 8
MAX_DEPTH = 64
"""Parts of a name between its dots; real names have fewer than 20."""


class TensorEntry(NamedTuple):
    """Where one tensor lies."""

    dtype: DType
    shape: tuple[int, ...]
    start: int
    """First byte, counted from the beginning of the file."""
    size: int
    """Bytes."""

    @property
    def params(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


class _RawEntry(NamedTuple):
    dtype: Any
    shape: Any
    offsets: Any


@dataclass(frozen=True)
class TensorFile(Closing):
    """An open safetensors file. Use as a context manager; reading is safe from several threads.

    entries: name -> TensorEntry, in the order of the data.
    metadata: the header's `__metadata__`.
    """

    path: Path
    handle: int
    size: int
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: Path, *, root: Path | None = None) -> TensorFile:
        """Open and check the whole header.

        Raises InputError with the codes of `reading.open_regular` and `files.refuse_disguise`, and truncated,
        header-too-large, bad-json, bad-encoding, bad-header, unknown-dtype, bad-offsets.
        """
        handle = open_regular(path, root=root)
        try:
            return cls._check(path, handle)
        except BaseException:  # Ctrl-C as well: nobody else knows the handle yet
            os.close(handle)
            raise

    @classmethod
    def _check(cls, path: Path, handle: int) -> TensorFile:
        size = os.fstat(handle).st_size
        head = bytes(pread(handle, min(size, 1024), 0, path))
        length = int.from_bytes(head[:8], "little")
        # Only where this cannot be a header: lengths such as 640 look like the first bytes of a pickle.
        if head[8:9] != b"{" or length > MAX_HEADER_BYTES:
            refuse_disguise(path, head)
            refuse_text(path, head)
        if size < 8:
            raise truncated(path, expected=8, actual=size)
        if length > MAX_HEADER_BYTES:
            raise InputError(
                f"{path}: its first 8 bytes promise a header of {length:,} bytes "
                f"(at most {MAX_HEADER_BYTES:,} are read): not a safetensors file, or a broken one",
                code="header-too-large",
                hint="download or save the adapter again",
            )
        if head[8:9] != b"{" or length == 0:
            raise _bad_header(
                path, "its header does not begin with {: not a safetensors file, or a broken one"
            )
        with _no_collection():
            entries, metadata = _read_header(path, bytes(pread(handle, length, 8, path)), size)
        return cls(path, handle, size, entries, metadata)

    def close(self) -> None:
        """Close the file."""
        os.close(self.handle)

    def read_bytes(self, name: str) -> bytearray:
        """The stored bytes of one tensor. Raises InputError (truncated, unreadable)."""
        entry = self.entries[name]
        return pread(self.handle, entry.size, entry.start, self.path)

    def read_words(self, name: str) -> Words:
        """The stored words of one tensor in its shape, as numpy type `dtype.numpy` (see dtypes.decode).

        Raises InputError (truncated, unreadable), ValueError for a type that has no numpy words.
        """
        entry = self.entries[name]
        if entry.dtype.numpy is None:
            raise ValueError(f"{entry.dtype.name} has no decoder")
        return np.frombuffer(self.read_bytes(name), dtype=entry.dtype.numpy).reshape(entry.shape)

    def sha256(self) -> str:
        """Digest of the whole file."""
        return sha256_parts(pread_blocks(self.handle, self.size, 0, self.path))


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection for a while: 100,000 tensors are as many new objects, all of them needed.

    Looking through them again and again takes two thirds of the time (0.9 s against 0.3 s).
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_header(path: Path, text: bytes, size: int) -> tuple[dict[str, TensorEntry], Mapping[str, str]]:
    """Tensors in the order of the data, and the metadata."""
    header = strict_json.loads(text, path, "header", convert=_compact(path))
    if not isinstance(header, dict):
        raise _bad_header(path, "the header is not a JSON object that describes tensors")
    metadata = header.pop("__metadata__", None)
    if metadata is None:  # as MLX writes it where there is none, and the reference reads it
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad_header(path, "__metadata__ is not a map from strings to strings")
    data = 8 + len(text)
    entries = {name: _entry(path, name, raw, data) for name, raw in header.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)))
    _check_cover(path, entries, start=data, end=size)
    return entries, metadata


def _compact(path: Path) -> Callable[[dict[str, Any]], Any]:
    """Makes a tensor's description a tuple: a third of the memory of a dict, which counts at 100,000 tensors.

    It stops at `MAX_TENSORS`, before a hostile header of empty objects has filled the memory.
    """
    objects = 0

    def convert(item: dict[str, Any]) -> Any:
        nonlocal objects
        objects += 1
        if objects > MAX_TENSORS + 2:  # the metadata and the header itself
            raise _bad_header(path, f"more than {MAX_TENSORS:,} tensors, the most that are read")
        if item.keys() == {"dtype", "shape", "data_offsets"}:
            return _RawEntry(item["dtype"], item["shape"], item["data_offsets"])
        return item

    return convert


def _bad_header(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}", code="bad-header", hint="download or save the adapter again")


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63  # not isinstance: true and false are ints as well


def _entry(path: Path, name: str, raw: Any, data_start: int) -> TensorEntry:
    if len(name) > MAX_NAME:
        raise _bad_tensor(
            path, name, f"has a name of {len(name):,} characters (at most {MAX_NAME:,} are read)"
        )
    if name.count(".") >= MAX_DEPTH:
        raise _bad_tensor(
            path, name, f"has a name of more than {MAX_DEPTH} parts, which are as many as are read"
        )
    if not isinstance(raw, _RawEntry):
        raise _bad_tensor(path, name, "does not have exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(raw.dtype) if isinstance(raw.dtype, str) else None
    if dtype is None:
        raise InputError(
            f"{path}: {_tensor(name)} has the unknown type {str(raw.dtype)[:40]!r}",
            code="unknown-dtype",
            hint=f"save it in one of the types {', '.join(DTYPES)}",
        )
    shape = raw.shape
    if isinstance(shape, list) and len(shape) > MAX_DIMENSIONS:
        raise _bad_tensor(path, name, f"has {len(shape):,} dimensions (at most {MAX_DIMENSIONS} are read)")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        raise _bad_tensor(path, name, "has a shape that is not a list of counts")
    offsets = raw.offsets
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise _bad_tensor(path, name, "has data_offsets that are not a pair of counts")
    bits = math.prod(shape) * dtype.bits
    size = offsets[1] - offsets[0]
    if bits % 8 or size != bits // 8:
        raise InputError(
            f"{path}: {_tensor(name)} occupies {size:,} bytes,"
            f" its shape {shape} of {dtype.name} needs {bits / 8:,.15g}",
            code="bad-offsets",
            hint="download or save the adapter again",
        )
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], size)


def _tensor(name: str) -> str:
    return f"tensor {name[:200]!r}"


def _bad_tensor(path: Path, name: str, what: str) -> InputError:
    return _bad_header(path, f"{_tensor(name)} {what}")


def _check_cover(path: Path, entries: Mapping[str, TensorEntry], *, start: int, end: int) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    position = start
    for name, entry in entries.items():
        if entry.start != position:
            what = "overlap" if entry.start < position else "leave a gap"
            raise InputError(
                f"{path}: the tensors {what} at byte {min(entry.start, position):,} ({_tensor(name)})",
                code="bad-offsets",
                hint="download or save the adapter again: two readers could see different weights",
            )
        position += entry.size
    if position > end:
        raise truncated(path, expected=position, actual=end)
    if position < end:
        raise InputError(
            f"{path}: {end - position:,} bytes after the last tensor belong to none",
            code="bad-offsets",
            hint="download or save the adapter again: two readers could see different weights",
        )
