"""Words of messages: one and many, and the first of a long list. Numbers for screens are in report/numbers.py."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def noun(number: int, one: str, many: str | None = None) -> str:
    """Return `one` for 1, else `many` (by default with an s).

    >>> noun(1, "key"), noun(2, "key"), noun(0, "body", "bodies")
    ('key', 'keys', 'bodies')
    """
    return one if number == 1 else many or f"{one}s"


def counted(number: int, one: str, many: str | None = None) -> str:
    """Return `1 tensor`, `2 tensors`, `1000 tensors`: for messages, in which digits are not grouped.

    For screens: `plural` of report/numbers.py.
    """
    return f"{number} {noun(number, one, many)}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """Return the first names, and how many more there are.

    >>> listed(["q", "k", "v", "o"], 2)
    'q, k and 2 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def points(difference: Fraction | float) -> str:
    """Format a difference of shares in percentage points with its sign: `−2.50`, `+0.15`, `0.00`."""
    hundredths = round(Fraction(difference) * 10_000)
    sign = "−" if hundredths < 0 else "+" if hundredths > 0 else ""
    return f"{sign}{abs(hundredths) // 100}.{abs(hundredths) % 100:02d}"
