"""What one pair of adapters shows of a margin: a total function of two bounds and a p-value."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

PairGrade = Literal["B", "C", "D"]
"""Of one run: a claim about another training run (A) would need several."""
LEVEL = 0.05
"""One-sided error of a claim."""


def pair_grade(low: float, high: float, margin: Fraction | float, p_value: float = 0.0) -> PairGrade:
    """Return B where a loss of the margin is excluded, D where a loss of more is shown, else C.

    >>> pair_grade(-0.01, 0.01, Fraction("0.025"), 0.001), pair_grade(-0.2, -0.1, Fraction("0.025"), 1.0)
    ('B', 'D')
    >>> pair_grade(-0.025, 0.01, Fraction("0.025"), 0.05)
    'C'

    low, high: the one-sided 95 % bounds of Δ. margin: positive. p_value: of "it loses the margin or more", adjusted
    where there are several candidates.
    """
    allowed = _exact(margin)
    if _exact(high) < -allowed:
        return "D"
    return "B" if _exact(low) > -allowed and p_value <= LEVEL else "C"


def _exact(value: Fraction | float) -> Fraction:
    """A number as a file has it: the binary number of −0.025 is a little less."""
    return value if isinstance(value, Fraction) else Fraction(repr(float(value)))
