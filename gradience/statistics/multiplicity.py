"""Several claims from one experiment: Holm for those without an order, a fixed sequence for a ladder."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values: each at most 0.05 keeps the chance of any false claim at 5 %.

    >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]

    Source: S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted


def fixed_sequence(p_values: Sequence[float], level: float = 0.05) -> int:
    """How many claims, from the first on, are shown when each is tested at the full level until one is not.

    >>> fixed_sequence([0.001, 0.02, 0.3, 0.01])  # the fourth is not looked at
    2

    The order must be fixed before the answers are known. Source: W. Maurer et al., Biometrie in der
    chemisch-pharmazeutischen Industrie 6 (1995).
    """
    for index, value in enumerate(p_values):
        if not value <= level:
            return index
    return len(p_values)
