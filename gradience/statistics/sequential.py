"""Group-sequential tests: planned looks at a growing part of the examples, with one error rate over all of them.

The error is spent in proportion to ln(1 + (e − 1)·t), t the share of the planned examples (Lan and DeMets' function of
Pocock's type). So the planned number of examples decides the boundary, and neither the answers nor the reason for
stopping do: a stop without a result (low conditional power, a limit, an interruption) never raises the error.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import special
from scipy.optimize import brentq

from gradience.statistics.paired import LEVEL, pair_grade

LOOKS = 9
FIRST_SHARE = 0.15
"""Share of the planned examples before the first look; chosen by `benchmarks/sequential_looks.py`."""
FEWEST_BETWEEN = 20
"""Examples between two looks, at least."""
FUTILITY = 0.05
"""Conditional power below which a test stops without a result."""
FUTILITY_FROM = 0.2
"""Share of the planned examples before which no test stops that way: the trend is unclear, and stopping costs power."""
_SMALLEST, _LARGEST = 1e-12, 0.95
"""Range in which a p-value is searched."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(160)
_BEYOND = 9.0
"""Standard deviations below 0 at which the integrals begin."""


class Look(NamedTuple):
    """One look at the answers.

    >>> look = Look(plan_looks(2186, 200), 2)
    >>> look.examples, round(look.share, 3)
    (560, 0.256)
    >>> round(look.nominal_level(), 4), round(look.p_value(0.001), 4)
    (0.0105, 0.0055)
    """

    looks: tuple[int, ...]
    """Examples at each planned look."""
    number: int
    """Number of this look, from 1."""

    @property
    def examples(self) -> int:
        """Examples at this look."""
        return self.looks[self.number - 1]

    @property
    def share(self) -> float:
        """Share of the planned examples (the information fraction)."""
        return self.examples / self.looks[-1]

    @property
    def may_be_futile(self) -> bool:
        """True if a low conditional power ends the test at this look."""
        return FUTILITY_FROM <= self.share < 1

    @property
    def is_last(self) -> bool:
        """True if all planned examples are answered."""
        return self.number == len(self.looks)

    def nominal_level(self, level: float = LEVEL) -> float:
        """Return the one-sided level of the fixed test that is used at this look."""
        return nominal_levels(self.looks, level)[self.number - 1]

    def confidence(self, confidence: float) -> float:
        """Return the confidence of the fixed two-sided interval that is the repeated one of this `confidence`.

        Source: C. Jennison & B. W. Turnbull, J. R. Statist. Soc. B 51 (1989) 305-361.
        """
        return 1 - 2 * self.nominal_level((1 - confidence) / 2)

    def p_value(self, nominal: float) -> float:
        """Return the smallest error rate of the whole test at which this look rejects. nominal: the fixed p-value."""
        if len(self.looks) == 1:
            return nominal

        def excess(log_level: float) -> float:
            reached = _boundaries(self.looks[: self.number], self.looks[-1], math.exp(log_level))[-1]
            return float(special.ndtri(max(nominal, 1e-300))) + reached

        low, high = math.log(_SMALLEST), math.log(_LARGEST)
        if excess(low) <= 0:
            return _SMALLEST
        return math.exp(brentq(excess, low, high, xtol=1e-6)) if excess(high) < 0 else 1.0

    def conditional_power(self, nominal: float, level: float = LEVEL) -> float:
        """Return the chance to reject at the last look if the trend goes on. nominal: the fixed p-value at this look.

        Source: K. K. G. Lan & J. Wittes, Biometrics 44 (1988) 579-585.
        """
        if self.is_last:
            return float(nominal <= self.nominal_level(level))
        boundary = -float(special.ndtri(nominal_levels(self.looks, level)[-1]))
        expected = -float(special.ndtri(nominal)) / math.sqrt(self.share)
        return float(special.ndtr((expected - boundary) / math.sqrt(1 - self.share)))


class Decision(NamedTuple):
    """Decision after the test at one look."""

    conditional_power: float
    """Chance to show the margin at the last look if the trend goes on."""
    stopped: Literal["shown", "worse", "conditional power", "last look"] | None
    """None if the next look is due."""


def decide(
    look: Look,
    bounds: tuple[float, float],
    p_value: float,
    margin: Fraction,
    *,
    nominal: float,
    worse: float = 1.0,
    level: float = LEVEL,
) -> Decision:
    """Return whether a test ends at a look.

    >>> decide(Look(plan_looks(2186, 200), 1), (-0.01, 0.01), 0.001, Fraction("0.025"), nominal=1e-4).stopped
    'shown'

    bounds: the repeated one-sided 95 % bounds. p_value: over all looks. nominal, worse: of the fixed tests at this
    look, of "it loses the margin or more" and of "or less". level: share of the 5 % that this claim has.
    """
    power, grade = (
        look.conditional_power(nominal, level),
        pair_grade(*bounds, margin, min(1.0, p_value * LEVEL / level)),
    )
    if grade != "C":
        return Decision(power, "shown" if grade == "B" else "worse")
    if look.is_last:
        return Decision(power, "last look")
    futile = look.may_be_futile and max(power, look.conditional_power(worse)) < FUTILITY
    return Decision(power, "conditional power" if futile else None)


def fewest_at_first_look(margin: float) -> int:
    """Return the fewest examples of a first look: 200, or as many as can show the margin if no answer changes.

    >>> fewest_at_first_look(0.025), fewest_at_first_look(0.01)
    (200, 459)
    """
    return max(200, math.ceil(math.log(0.01) / math.log1p(-margin)))


def plan_looks(examples: int, floor: int) -> tuple[int, ...]:
    """Return the number of examples at each look: evenly spaced, none below `floor`, the last at all examples.

    >>> plan_looks(2186, 200), plan_looks(260, 200), plan_looks(150, 200)
    ((328, 560, 792, 1025, 1257, 1489, 1722, 1954, 2186), (200, 220, 240, 260), (150,))
    """
    first = max(floor, round(FIRST_SHARE * examples))
    steps = min(LOOKS - 1, (examples - first) // FEWEST_BETWEEN)
    if steps < 1:
        return (examples,)
    return tuple(round(first + (examples - first) * step / steps) for step in range(steps + 1))


@lru_cache(maxsize=256)
def nominal_levels(looks: tuple[int, ...], level: float = LEVEL) -> tuple[float, ...]:
    """Return the one-sided level of the fixed test at each look; the whole test then has the error `level`.

    >>> [round(each, 4) for each in nominal_levels((200, 400, 600, 800, 1000), 0.025)]
    [0.0074, 0.0076, 0.008, 0.0083, 0.0085]
    """
    return tuple(float(special.ndtr(-bound)) for bound in _boundaries(looks, looks[-1], level))


def _boundaries(looks: Sequence[int], planned: int, level: float) -> list[float]:
    times = [look / planned for look in looks]
    if times == [1.0]:
        return [-float(special.ndtri(level))]
    return boundaries(times, [level * math.log1p((math.e - 1) * time) for time in times])


def boundaries(times: Sequence[float], spent: Sequence[float]) -> list[float]:
    """Return the standard normal boundaries at which the error spent by each time is `spent`.

    >>> [round(bound, 3) for bound in boundaries([0.5, 1.0], [0.0031, 0.025])]
    [2.737, 1.982]

    times: information fractions, rising. By recursive numerical integration of the statistic's density below the
    earlier boundaries (P. Armitage, C. K. McPherson & B. C. Rowe, J. R. Statist. Soc. A 132 (1969) 235-244).
    """
    bounds: list[float] = []
    sums, density, before, used = np.zeros(1), np.ones(1), 0.0, 0.0
    for time, until in zip(times, spent, strict=True):
        step = math.sqrt(time - before)

        def excess(bound: float, scale: float = math.sqrt(time), step: float = step, error: float = until - used,
                   sums: np.ndarray = sums, density: np.ndarray = density) -> float:  # fmt: skip
            return float(density @ special.ndtr((sums - bound * scale) / step)) - error

        bound = brentq(excess, -_BEYOND, 3 * _BEYOND, xtol=1e-9)
        low, high = -_BEYOND * math.sqrt(time), bound * math.sqrt(time)
        nodes, weights = low + (high - low) * (_NODES + 1) / 2, _WEIGHTS * (high - low) / 2
        kernel = np.exp(-(((nodes[:, None] - sums) / step) ** 2) / 2) / (step * math.sqrt(2 * math.pi))
        sums, density, before, used = nodes, weights * (kernel @ density), time, until
        bounds.append(float(bound))
    return bounds
