"""Storage types of safetensors: the numpy type of each that can hold a LoRA factor, its exact values and its rounding.

numpy has no bfloat16 and no 8-bit floats; ml_dtypes brings them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradience.spectra import FloatArray

Words = NDArray[Any]
"""Stored elements in their own type (`DType.numpy`)."""


@dataclass(frozen=True, slots=True)
class DType:
    """One storage type.

    name: as in a safetensors header.   bits: size of one element.
    numpy_name: of the stored words in numpy or ml_dtypes, or None where no LoRA factor is stored so (indices,
    quantised base weights).
    unit_roundoff: largest relative error of storing a real number of its normal range.
    smallest: smallest positive value; below the normal range it is the distance of neighbours.
    """

    name: str
    bits: int
    numpy_name: str | None = None
    unit_roundoff: float = 0.0
    smallest: float = 0.0

    @property
    def itemsize(self) -> float:
        """Bytes of one element."""
        return self.bits / 8

    @property
    def numpy(self) -> np.dtype[Any] | None:
        """The type of the stored words, or None where no LoRA factor is stored so."""
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
