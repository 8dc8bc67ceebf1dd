"""Storage types of safetensors: the numpy type of each that can hold a LoRA factor, its exact values and its rounding.

numpy has no bfloat16 and no 8-bit floats; ml_dtypes brings them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

FloatArray = NDArray[np.float64]
Words = NDArray[Any]
"""Stored elements in their own type (`DType.numpy`)."""


@dataclass(frozen=True, slots=True)
class DType:
    """One storage type.

    name: as in a safetensors header.   bits: size of one element.
    numpy: type of the stored words, or None where no LoRA factor is stored so (indices, quantised base weights).
    unit_roundoff: largest relative error of storing a real number of its normal range.
    smallest: smallest positive value; below the normal range it is the distance of neighbours.
    """

    name: str
    bits: int
    numpy: np.dtype[Any] | None = None
    unit_roundoff: float = 0.0
    smallest: float = 0.0

    @property
    def itemsize(self) -> float:
        """Bytes of one element."""
        return self.bits / 8


def _floats(name: str, kind: DTypeLike) -> DType:
    limits = ml_dtypes.finfo(np.dtype(kind))  # type: ignore[no-untyped-call]
    return DType(name, limits.bits, np.dtype(kind), float(limits.eps) / 2, float(limits.smallest_subnormal))


_TABLE = (
    _floats("F64", "<f8"),
    _floats("F32", "<f4"),
    _floats("F16", "<f2"),
    _floats("BF16", ml_dtypes.bfloat16),
    _floats("F8_E4M3", ml_dtypes.float8_e4m3fn),
    _floats("F8_E5M2", ml_dtypes.float8_e5m2),
    _floats("F8_E4M3FNUZ", ml_dtypes.float8_e4m3fnuz),
    _floats("F8_E5M2FNUZ", ml_dtypes.float8_e5m2fnuz),
    # Understood as storage (heads, indices, quantised base weights), never as LoRA factors.
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


def decode(words: Words) -> FloatArray:
    """Stored words, of any shape, as float64: exact."""
    if words.dtype.itemsize == 1:  # looked up in 0.4 of the time that the conversion takes
        return _all_values(words.dtype)[words.view(np.uint8)]
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN, and no reason to warn on stderr
        return words.astype(np.float64)


@cache
def _all_values(dtype: np.dtype[Any]) -> FloatArray:
    """The values of all 256 words of an 8-bit type."""
    return np.arange(256, dtype=np.uint8).view(dtype).astype(np.float64)


def encode(values: FloatArray, dtype: DType) -> Words:
    """float64 as stored words, rounded to nearest (ties to even). Values beyond the range become infinite or NaN."""
    with np.errstate(over="ignore"):
        return values.astype(dtype.numpy)
