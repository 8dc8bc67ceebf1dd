"""The header of a safetensors file that is about to be written: bytes from names, types and shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from gradience.adapters.dtypes import DTYPES


class NewTensor(NamedTuple):
    """A tensor to be written: its type, its shape, and the bytes when they are asked for."""

    dtype: str
    shape: tuple[int, ...]


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
