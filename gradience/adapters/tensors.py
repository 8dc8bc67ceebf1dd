"""A strict, streaming reader and writer of safetensors files, and the storage types in them.

Stricter than the reference: duplicate keys are refused as well (two readers could see different weights),
and nothing is mapped into memory, since a mapped file that shrinks kills the process.

Format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the data.
numpy has no bfloat16 and no 8-bit floats; ml_dtypes brings them.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gradience.adapters.files import Closing, kept_open, refuse_disguise
from gradience.digests import Sha256, sha256_parts
from gradience.errors import InputError
from gradience.files import strict_json
from gradience.reading import open_stream, pread, pread_blocks, truncated
from gradience.spectra import FloatArray

Words = NDArray[Any]
"""Stored elements in their own type (`DType.numpy`)."""


@dataclass(frozen=True, slots=True)
class DType:
    """One storage type.

    name: as in a safetensors header.   bits: size of one element.
    numpy_name: type of the stored words in numpy or ml_dtypes, or None if LoRA factors are never stored this
    way (indices, quantized base weights).
    unit_roundoff: largest relative error of storing a real number of its normal range.
    smallest: smallest positive value; below the normal range it is the distance of neighbors.
    """

    name: str
    bits: int
    numpy_name: str | None = None
    unit_roundoff: float = 0.0
    smallest: float = 0.0

    @property
    def numpy(self) -> np.dtype[Any] | None:
        """Return the type of the stored words, or None if LoRA factors are never stored this way."""
        return None if self.numpy_name is None else _numpy_type(self.numpy_name)


@cache
def _numpy_type(name: str) -> np.dtype[Any]:
    if name.startswith("<"):
        return np.dtype(name)
    import ml_dtypes  # most small adapters are float32, and do not wait for it

    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return dtype


_TABLE = (
    DType("F64", 64, "<f8", 2**-53, 2**-1074),
    DType("F32", 32, "<f4", 2**-24, 2**-149),
    DType("F16", 16, "<f2", 2**-11, 2**-24),
    DType("BF16", 16, "bfloat16", 2**-8, 2**-133),
    DType("F8_E4M3", 8, "float8_e4m3fn", 2**-4, 2**-9),
    DType("F8_E5M2", 8, "float8_e5m2", 2**-3, 2**-16),
    DType("F8_E4M3FNUZ", 8, "float8_e4m3fnuz", 2**-4, 2**-10),
    DType("F8_E5M2FNUZ", 8, "float8_e5m2fnuz", 2**-3, 2**-17),
    # Understood as storage (heads, indices, quantized base weights), never as LoRA factors.
    DType("F8_E8M0", 8),
    DType("F6_E2M3", 6),
    DType("F6_E3M2", 6),
    DType("F4", 4),
    DType("C64", 64),
    DType("I64", 64),
    DType("U64", 64),
    DType("I32", 32),
    DType("U32", 32),
    DType("I16", 16),
    DType("U16", 16),
    DType("I8", 8),
    DType("U8", 8),
    DType("BOOL", 8),
)
DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in _TABLE}


def type_names(*dtypes: DType) -> str:
    """Return the names of the types that occur: `F32`, or `BF16+F32`."""
    return "+".join(sorted({dtype.name for dtype in dtypes}))


def decode(words: Words, dtype: DTypeLike = np.float64) -> FloatArray:
    """Return stored words of any shape as exact float64. dtype: float32 is exact for words of up to 32 bits."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN, and no reason to warn on stderr
        return words.astype(dtype)


def encode(values: FloatArray, dtype: DType) -> Words:
    """float64 as stored words, rounded to nearest (ties to even). Values beyond the range become infinite or NaN."""
    with np.errstate(over="ignore"):
        return values.astype(dtype.numpy)


MAX_HEADER_BYTES = 32 * 2**20
"""100,000 tensors need about 12 MB; the reference implementation allows 100 MB."""
MAX_TENSORS = 200_000
MAX_NAME = 1024
"""Characters; real names have fewer than 200."""
MAX_DIMENSIONS = 8
MAX_DEPTH = 64
"""Parts of a name between its dots; real names have fewer than 20."""


class TensorEntry(NamedTuple):
    """Position, shape and type of one tensor in a file."""

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
    def open(cls, path: Path, *, root: Path | None = None) -> Self:
        """Open and check the whole header.

        Raises InputError with the codes of `reading.open_regular` and `files.refuse_disguise`, and truncated,
        bad-json, bad-header, unknown-dtype, bad-offsets.
        """
        with kept_open(path, root) as handle:
            size = os.fstat(handle).st_size
            head = pread(handle, min(size, 1024), 0, path)
            length = int.from_bytes(head[:8], "little")
            if head[8:9] != b"{" or not 0 < length <= MAX_HEADER_BYTES:
                refuse_disguise(path, head)
                raise InputError(
                    f"{path}: not a safetensors file, or a broken one (it starts with {head[:60]!r})",
                    code="wrong-format",
                    hint=f"give an adapter folder or a .safetensors file, or {_AGAIN}",
                )
            entries, metadata = read_header(path, pread(handle, length, 8, path), size)
            return cls(path, handle, size, entries, metadata)

    def close(self) -> None:
        """Close the file."""
        os.close(self.handle)

    def read_bytes(self, name: str) -> bytes:
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


def read_header(path: Path, text: bytes, size: int) -> tuple[dict[str, TensorEntry], Mapping[str, str]]:
    """Return the tensors of a header in the order of the data, and the metadata. size: bytes of the whole file."""
    header = strict_json.loads(text, path, "header")
    if not isinstance(header, dict):
        raise _bad_header(path, "the header is not a JSON object that describes tensors")
    metadata = header.pop("__metadata__", None)
    if metadata is None:  # MLX writes null for missing metadata, and the reference reads it
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad_header(path, "__metadata__ is not a map from strings to strings")
    if len(header) > MAX_TENSORS:
        raise _bad_header(path, f"more than {MAX_TENSORS:,} tensors, the most that are read")
    data = 8 + len(text)
    entries = {name: _entry(path, name, raw, data) for name, raw in header.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].size)))
    # Every byte of the data belongs to exactly one tensor.
    position = data
    for name, entry in entries.items():
        if entry.start != position:
            problem = "overlap" if entry.start < position else "leave a gap"
            at = min(entry.start, position)
            raise _bad_offsets(
                path, f"the tensors {problem} at byte {at:,} (tensor {name[:200]!r})", _TWO_READERS
            )
        position += entry.size
    if position > size:
        raise truncated(path, expected=position, actual=size)
    if position < size:
        raise _bad_offsets(
            path, f"{size - position:,} bytes after the last tensor belong to none", _TWO_READERS
        )
    return entries, metadata


_AGAIN = "download or save the adapter again"
_TWO_READERS = f"{_AGAIN}: two readers could see different weights"


def _bad_header(path: Path, problem: str) -> InputError:
    return InputError(f"{path}: {problem}", code="bad-header", hint=_AGAIN)


def _bad_offsets(path: Path, problem: str, hint: str) -> InputError:
    return InputError(f"{path}: {problem}", code="bad-offsets", hint=hint)


def _are_counts(values: Any) -> bool:
    # The type itself: true and false are instances of int as well.
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _entry(path: Path, name: str, raw: Any, data_start: int) -> TensorEntry:
    tensor = f"tensor {name[:200]!r}"
    if len(name) > MAX_NAME or name.count(".") >= MAX_DEPTH:
        raise _bad_header(
            path,
            f"{tensor} has a name of more than {MAX_NAME:,} characters or {MAX_DEPTH} parts",
        )
    if not isinstance(raw, dict) or raw.keys() != {"dtype", "shape", "data_offsets"}:
        raise _bad_header(path, f"{tensor} does not have exactly dtype, shape and data_offsets")
    dtype = DTYPES.get(raw["dtype"]) if isinstance(raw["dtype"], str) else None
    if dtype is None:
        raise InputError(
            f"{path}: {tensor} has the unknown type {str(raw['dtype'])[:40]!r}",
            code="unknown-dtype",
            hint=f"save it in one of the types {', '.join(DTYPES)}",
        )
    shape, offsets = raw["shape"], raw["data_offsets"]
    if not _are_counts(shape) or len(shape) > MAX_DIMENSIONS:
        raise _bad_header(path, f"{tensor} has a shape that is not a list of at most {MAX_DIMENSIONS} counts")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise _bad_header(path, f"{tensor} has data_offsets that are not a pair of counts")
    bits = math.prod(shape) * dtype.bits
    size = offsets[1] - offsets[0]
    if bits % 8 or size != bits // 8:
        needed = f"its shape {shape} of {dtype.name} needs {bits / 8:,.15g}"
        raise _bad_offsets(path, f"{tensor} occupies {size:,} bytes, {needed}", _AGAIN)
    return TensorEntry(dtype, tuple(shape), data_start + offsets[0], size)


def stored_header(path: Path) -> bytes:
    """Return the header of a safetensors file, its JSON, without checking it. Raises InputError as `open_stream`."""
    with open_stream(path) as file:
        header: bytes = file.read(min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES))
    return header


class NewTensor(NamedTuple):
    """A tensor to be written: its type, its shape and its bytes, which may be read only then."""

    dtype: str
    shape: tuple[int, ...]
    data: Iterable[bytes] = ()


def header_bytes(tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> bytes:
    """The 8-byte length and the header for `tensors` laid one after the other, padded to 8 bytes with spaces."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, tensor in tensors.items():
        size = math.prod(tensor.shape) * DTYPES[tensor.dtype].bits // 8
        header[name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def in_order_of_type(tensors: Mapping[str, NewTensor]) -> dict[str, NewTensor]:
    """The order that the reference implementation writes: wider types first (alignment), then names."""
    return dict(sorted(tensors.items(), key=lambda item: (-DTYPES[item[1].dtype].bits, item[0])))


def pieces(file: TensorFile, name: str) -> Iterator[bytes]:
    """Return the stored bytes of a tensor, a few MB at a time: a head may be larger than all factors together."""
    entry = file.entries[name]
    return pread_blocks(file.handle, entry.size, entry.start, file.path)


def parts_of(tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> Iterator[bytes]:
    """Yield the bytes of a safetensors file: the header, then every tensor in its order."""
    ordered = in_order_of_type(tensors)
    yield header_bytes(ordered, metadata)
    for tensor in ordered.values():
        yield from tensor.data


def write_tensors(
    path: Path, tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]
) -> tuple[str, int]:
    """Write a safetensors file, and return its SHA-256 and its size. Raises OSError.

    Only one part is in memory. The file is in a folder that is synced before it gets its name (`whole_folder`).
    """
    digest = Sha256()
    with open(path, "xb", buffering=0) as file:
        for part in parts_of(tensors, metadata):
            digest.update(part)
            rest = memoryview(part)
            while rest:
                rest = rest[file.write(rest) :]
        return digest.hexdigest(), file.tell()
