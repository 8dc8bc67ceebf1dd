"""Numbers that a verdict depends on: kept exactly as written, never as binary floats.

0.025 is not a binary number: `Fraction(0.025)` is a little more, and `(k - 5) / 200 - k / 200 < -0.025` is true for
119 of the 196 possible k. So a threshold is read from its decimal text.
"""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from gradience.errors import UsageError

PLACES = 18
"""Decimal places at most: `1e999999999` would fill the memory."""
SMALLEST_POINTS = Fraction(1, 2)
_NUMBER = re.compile(
    r"([-+]?\d{1,30})/(\d{1,30})|[-+]?(?=\.?\d)\d{0,30}\.?\d{0,30}([eE][-+]?\d{1,3})?", re.ASCII
)


def as_written(value: Any) -> Fraction:
    """Return 0.025, "0.025", "2/3" or 1 as an exact fraction. Raises ValueError for anything else."""
    if isinstance(value, Fraction):
        return value
    text = str(value).strip()
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not _NUMBER.fullmatch(text):
        raise ValueError(f"{value!r} is not a number such as 0.5 or 2/3")
    if "/" in text and not int(text.partition("/")[2]):
        raise ValueError(f"{value!r} divides by zero")
    fraction = Fraction(text)
    if fraction and not Fraction(1, 10**PLACES) <= abs(fraction) <= 10**PLACES:
        raise ValueError(f"{value!r} is too large or too small")
    return fraction


def exact_text(value: Fraction) -> str:
    """Return `0.025` if a decimal is exact, otherwise `2/3`."""
    places = next((k for k in range(PLACES + 1) if (value * 10**k).denominator == 1), None)
    if places is None:
        return f"{value.numerator}/{value.denominator}"
    return format(Decimal(int(value * 10**places)).scaleb(-places), "f")


def share_of_points(points: Fraction) -> Fraction:
    """Return an accuracy drop, given in points, as a share of the examples.

    >>> share_of_points(Fraction("2.5"))
    Fraction(1, 40)

    Raises UsageError (`bad-margin`) below 0.5, because a share was probably meant, and from 100.
    """
    if not SMALLEST_POINTS <= points < 100:
        raise UsageError(
            f"a margin of {float(points):g} points: it must be at least 0.5 and below 100",
            code="bad-margin",
            hint="margins are in points, not shares: 2.5 points are a drop from 80 % to 77.5 %",
        )
    return points / 100


Exact = Annotated[
    Fraction,
    BeforeValidator(as_written),
    PlainSerializer(exact_text, return_type=str),
    WithJsonSchema({"type": "string"}),
]
"""A number that is stored as text and read back as exactly the same fraction."""


def exact_percent(value: Fraction) -> str:
    """Format as `2.5 %`, `67 %`, `66.7 %`: exact if one decimal is enough, otherwise rounded to one."""
    tenths = value * 1000
    rounded = Fraction(round(tenths), 10)
    return f"{exact_text(rounded)} %"
