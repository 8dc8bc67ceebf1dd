"""Stored arrays of an .npz archive as tensors: where each of them lies in the file, without unpacking anything.

`numpy.savez` and `mlx.core.savez` store their members as they are, so each array is a range of bytes of the archive.
Compressed members are refused: what they would unfold to cannot be told beforehand.
Format: a zip archive of .npy files; numpy, lib/format.py.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zipfile
from pathlib import Path

from gradience.adapters.dtypes import DTYPES, DType
from gradience.adapters.files import refuse_placeholder
from gradience.adapters.tensors import MAX_DIMENSIONS, MAX_NAME, MAX_TENSORS, TensorEntry, TensorFile
from gradience.errors import InputError
from gradience.reading import open_regular, pread

MAX_DIRECTORY = 32 * 2**20
"""Bytes of the list of members, as of a safetensors header."""
_LOCAL, _END = 30, 22
_MEMBER = 1024
"""Bytes of a member that are looked at: an array of 8 dimensions has a header of at most 256."""
_ARRAY = re.compile(
    rb"\{'descr': '(?P<descr>[<>|=]?[A-Za-z]\d{0,2})', 'fortran_order': (?P<fortran>True|False),"
    rb" 'shape': \((?P<shape>(?:\d{1,19}, ?)*(?:\d{1,19})?)\),? ?\} *\n?"
)
"""What numpy and mlx write; numpy itself would evaluate it as Python."""
_TYPES = {"f8": "F64", "f4": "F32", "f2": "F16", "V2": "BF16", "i8": "I64", "i4": "I32", "i2": "I16", "i1": "I8",
          "u8": "U64", "u4": "U32", "u2": "U16", "u1": "U8", "b1": "BOOL"}  # fmt: skip
"""numpy's names; mlx stores bfloat16, which numpy does not know, as words of two bytes without a type."""


def open_npz(path: Path, *, root: Path | None = None) -> TensorFile:
    """Open an .npz archive of stored arrays. Close it with `with`.

    Raises InputError: bad-archive, unknown-dtype, and what `open_regular` raises.
    """
    handle = open_regular(path, root=root)
    try:
        size = os.fstat(handle).st_size
        refuse_placeholder(path, bytes(pread(handle, min(size, 1024), 0, path)))
        entries = {
            info.filename.removesuffix(".npy"): _entry(path, handle, info, size)
            for info in _members(path, handle, size)
        }
    except BaseException:  # Ctrl-C as well: nobody else knows the handle yet
        os.close(handle)
        raise
    ordered = dict(sorted(entries.items(), key=lambda item: item[1].start))
    return TensorFile(path, handle, size, ordered, {})


def _bad(path: Path, what: str) -> InputError:
    return InputError(
        f"{path}: {what}", code="bad-archive", hint="download it again, or save it with numpy.savez"
    )


def _members(path: Path, handle: int, size: int) -> list[zipfile.ZipInfo]:
    """The archive's list of members, whose length is looked at before it is read."""
    tail = bytes(pread(handle, min(size, _END + 2**16), max(0, size - _END - 2**16), path))
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + _END:
        raise _bad(path, "not a zip archive, or one that is cut off")
    length = struct.unpack_from("<I", tail, end + 12)[0]
    if length > MAX_DIRECTORY:
        raise _bad(path, f"its list of members has {length:,} bytes (at most {MAX_DIRECTORY:,} are read)")
    try:
        with os.fdopen(os.dup(handle), "rb") as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, struct.error) as error:
        raise _bad(path, f"its list of members cannot be read: {error}") from None
    if len(members) > MAX_TENSORS:
        raise _bad(path, f"{len(members):,} members (at most {MAX_TENSORS:,} are read)")
    names = [info.filename.removesuffix(".npy") for info in members]
    if len(set(names)) != len(names):
        raise _bad(path, "two of its members have one name")
    return members


def _entry(path: Path, handle: int, info: zipfile.ZipInfo, size: int) -> TensorEntry:
    """Where one array lies. Raises InputError."""
    name = repr(info.filename[:200])
    if len(info.filename) > MAX_NAME:
        raise _bad(path, f"a member with a name of {len(info.filename):,} characters")
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
        raise _bad(path, f"{name} is compressed or encrypted, and only stored arrays are read")
    if not 0 <= info.header_offset <= size - _LOCAL:
        raise _bad(path, f"{name} lies outside of the file")
    head = bytes(pread(handle, _LOCAL, info.header_offset, path))
    named, extra = struct.unpack_from("<HH", head, 26)
    start = info.header_offset + _LOCAL + named + extra
    if not head.startswith(b"PK\x03\x04") or start + info.file_size > size:
        raise _bad(path, f"{name} does not lie where the list of members says")
    text = bytes(pread(handle, min(info.file_size, _MEMBER), start, path))
    array = _array_header(text)
    if array is None:
        raise _bad(path, f"{name} is not a numpy array of numbers")
    descr, fortran, shape, offset = array
    stored = _stored_type(path, name, descr)
    if len(shape) > MAX_DIMENSIONS:
        raise _bad(path, f"{name} has a shape of {len(shape)} dimensions that is not read")
    if fortran and len(shape) > 1:
        raise _bad(path, f"{name} is stored column by column (Fortran order)")
    length = math.prod(shape) * stored.bits // 8
    if offset + length != info.file_size:
        raise _bad(
            path,
            f"{name} has {info.file_size - offset:,} bytes, its shape {list(shape)} needs {length:,}",
        )
    return TensorEntry(stored, shape, start + offset, length)


def _array_header(text: bytes) -> tuple[str, bool, tuple[int, ...], int] | None:
    """Type, whether it is stored by columns, shape, and where the values begin; None for what is no plain array."""
    if not text.startswith(b"\x93NUMPY") or text[6:7] not in (b"\1", b"\2", b"\3"):
        return None
    begin = 10 if text[6] == 1 else 12
    length = int.from_bytes(text[8:begin], "little")
    match = _ARRAY.fullmatch(text[begin : begin + length])
    if match is None or len(text) < begin + length:
        return None
    sides = tuple(int(side) for side in re.findall(rb"\d+", match["shape"]))
    return match["descr"].decode(), match["fortran"] == b"True", sides, begin + length


def _stored_type(path: Path, name: str, descr: str) -> DType:
    known = _TYPES.get(descr.lstrip("<|"))
    if known is None:
        raise InputError(
            f"{path}: {name} has the type {descr!r}, which is not read",
            code="unknown-dtype",
            hint="save it as float32, float16 or bfloat16, little-endian",
        )
    return DTYPES[known]
