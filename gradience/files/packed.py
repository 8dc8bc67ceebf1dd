"""Correctness of each example as packed bits, short enough to store with the counts (2,186 in 368
characters).
"""

import base64
import binascii
from collections.abc import Iterable


def pack(correct: Iterable[bool]) -> str:
    """Return answers as bits in base64: the first is the highest bit of the first byte, and zeros fill the last byte.

    >>> pack([True, False, False, False, False, False, False, True, True])
    'gYA='
    """
    bits = "".join("1" if is_correct else "0" for is_correct in correct)
    size = -(-len(bits) // 8)
    return base64.b64encode(int(bits.ljust(8 * size, "0") or "0", 2).to_bytes(size, "big")).decode("ascii")


def unpack(text: str, n: int) -> tuple[bool, ...]:
    """Return the `n` answers that `pack` has packed. Raises ValueError for anything but exactly that.

    >>> unpack("gYA=", 9)
    (True, False, False, False, False, False, False, True, True)
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64-encoded answers") from None
    bits = f"{int.from_bytes(packed, 'big'):0{max(8 * len(packed), 1)}b}" if packed else ""
    if len(packed) != -(-n // 8) or "1" in bits[n:]:
        raise ValueError(f"not the answers to {n} examples")
    return tuple(bit == "1" for bit in bits[:n])
