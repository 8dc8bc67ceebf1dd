"""Storage types of safetensors and their exact values as float64.

BF16 is the commonest type of LoRA weights and numpy has none, so the decoding is ours; it is checked
against ml_dtypes bit by bit in tests/adapters/test_dtypes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Raw = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class DType:
    """One storage type.

    name: as in a safetensors header.   bits: size of one element.
    raw: numpy type of the stored words, or None where the project cannot decode it as a factor.
    unit_roundoff: largest relative error of storing a real number of its normal range.
    smallest: smallest positive value; below the normal range it is the distance of neighbours.
    """

    name: str
    bits: int
    raw: str | None = None
    unit_roundoff: float = 0.0
    smallest: float = 0.0

    @property
    def itemsize(self) -> float:
        """Bytes of one element."""
        return self.bits / 8


_TABLE = (
    DType("F64", 64, "<f8", 2.0**-53, 2.0**-1074),
    DType("F32", 32, "<f4", 2.0**-24, 2.0**-149),
    DType("F16", 16, "<f2", 2.0**-11, 2.0**-24),
    DType("BF16", 16, "<u2", 2.0**-8, 2.0**-133),
    DType("F8_E4M3", 8, "u1", 2.0**-4, 2.0**-9),
    DType("F8_E5M2", 8, "u1", 2.0**-3, 2.0**-16),
    DType("F8_E4M3FNUZ", 8, "u1", 2.0**-4, 2.0**-10),
    DType("F8_E5M2FNUZ", 8, "u1", 2.0**-3, 2.0**-17),
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


def decode(raw: Raw, dtype: DType) -> FloatArray:
    """Stored words -> float64, exactly. `raw` has the numpy type `dtype.raw`; any shape."""
    with np.errstate(invalid="ignore"):  # a signalling NaN is a NaN, and no reason to warn on stderr
        return _DECODERS[dtype.name](raw)


def encode(values: FloatArray, dtype: DType) -> Raw:
    """float64 -> stored words, rounded to nearest (ties to even). Values beyond the range become infinite or NaN."""
    with np.errstate(over="ignore"):
        if dtype.name == "BF16":
            return _to_bf16(values)
        if dtype.bits == 8:
            return _to_fp8(values, _DECODERS[dtype.name](np.arange(256, dtype=np.uint8)))
        return values.astype(dtype.raw)


def _to_bf16(values: FloatArray) -> Raw:
    words = values.astype(np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
    rounded: Raw = ((words + half) >> np.uint32(16)).astype(np.uint16)
    return rounded


def _to_fp8(values: FloatArray, table: FloatArray) -> Raw:
    """The code of the nearest finite value; out of range: the NaN of the type."""
    codes = np.flatnonzero(np.isfinite(table))
    codes = codes[np.argsort(table[codes], kind="stable")]
    ladder, first = np.unique(table[codes], return_index=True)
    codes = codes[first]
    above = np.clip(np.searchsorted(ladder, values), 1, len(ladder) - 1)
    low, high = ladder[above - 1], ladder[above]
    even_low = codes[above - 1] % 2 == 0
    take_low = (values - low < high - values) | ((values - low == high - values) & even_low)
    found = np.where(take_low, codes[above - 1], codes[above])
    beyond = ~(np.abs(values) <= np.max(ladder))
    found[beyond] = np.flatnonzero(np.isnan(table))[0]
    words: Raw = found.astype(np.uint8)
    return words


def _native(raw: Raw) -> FloatArray:
    return raw.astype(np.float64)


def _bf16(raw: Raw) -> FloatArray:
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)


def _fp8(exponent_bits: int, mantissa_bits: int, *, variant: str) -> Callable[[Raw], FloatArray]:
    def convert(raw: Raw) -> FloatArray:
        values: FloatArray = _fp8_table(exponent_bits, mantissa_bits, variant)[raw]
        return values

    return convert


@cache
def _fp8_table(exponent_bits: int, mantissa_bits: int, variant: str) -> FloatArray:
    """All 256 values of an 8-bit float.

    variant: `ieee` (E5M2: infinities and NaNs), `fn` (E4M3: NaN only at S.1111.111),
    `fnuz` (no negative zero, its code is the only NaN, bias one higher).
    Source: Micikevicius et al., arXiv 2209.05433; the FNUZ types: arXiv 2206.02915.
    """
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = (codes & (2**mantissa_bits - 1)) / 2.0**mantissa_bits
    bias = 2 ** (exponent_bits - 1) - (0 if variant == "fnuz" else 1)
    values: FloatArray = sign * np.where(
        exponent == 0,
        np.ldexp(mantissa, 1 - bias),
        np.ldexp(1.0 + mantissa, exponent - bias),
    )
    if variant == "fnuz":
        values[0x80] = np.nan
    elif variant == "fn":
        values[[0x7F, 0xFF]] = np.nan
    else:
        top = exponent == 2**exponent_bits - 1
        values[top] = np.where(mantissa[top] == 0, sign[top] * np.inf, np.nan)
    return values


_DECODERS: dict[str, Callable[[Raw], FloatArray]] = {
    "F64": _native,
    "F32": _native,
    "F16": _native,
    "BF16": _bf16,
    "F8_E4M3": _fp8(4, 3, variant="fn"),
    "F8_E5M2": _fp8(5, 2, variant="ieee"),
    "F8_E4M3FNUZ": _fp8(4, 3, variant="fnuz"),
    "F8_E5M2FNUZ": _fp8(5, 2, variant="fnuz"),
}
