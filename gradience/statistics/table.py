"""The paired table: how two adapters answered the same examples, and how sure the difference is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    NonNegativeInt,
    computed_field,
    model_validator,
)

if TYPE_CHECKING:  # scipy is loaded where something is computed, not where a file is read
    from gradience.statistics.paired import Interval

DERIVED = ("delta", "low", "high", "mcnemar_p")


class PairedTable(BaseModel):
    """The examples by which of two adapters answered them correctly. A file holds what follows from the counts too.

    >>> table = PairedTable(n11=150, n10=12, n01=8, n00=30)
    >>> table.n, table.exact_delta, table.delta, round(table.discordance, 3)
    (200, Fraction(-1, 50), -0.02, 0.1)
    >>> round(table.low, 3), round(table.high, 3)
    (-0.068, 0.026)

    The first digit is the reference, the second the candidate; 1 is correct.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    n11: NonNegativeInt
    """Both are correct."""
    n10: NonNegativeInt
    """Only the reference is correct."""
    n01: NonNegativeInt
    """Only the candidate is correct."""
    n00: NonNegativeInt
    """Both are wrong."""

    @classmethod
    def of(cls, reference: Iterable[bool], candidate: Iterable[bool]) -> Self:
        """Count two lists of answers in the same order. Raises ValueError if their lengths differ."""
        counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
        for first, second in zip(reference, candidate, strict=True):
            counts[bool(first), bool(second)] += 1
        return cls(**dict(zip(("n11", "n10", "n01", "n00"), counts.values(), strict=True)))

    @model_validator(mode="wrap")
    @classmethod
    def _keep_derived_values(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Keep what a file derived from its counts: it is not computed again when the file is read."""
        if not isinstance(given, dict):
            return handler(given)
        derived = {name: given[name] for name in DERIVED if name in given}
        if not all(type(value) in (int, float) and math.isfinite(value) for value in derived.values()):
            raise ValueError(f"{', '.join(derived)}: not numbers")
        table = handler({name: value for name, value in given.items() if name not in derived})
        table.__dict__.update({name: float(value) for name, value in derived.items()})
        return table

    @property
    def n(self) -> int:
        """Examples."""
        return self.n11 + self.n10 + self.n01 + self.n00

    @property
    def exact_delta(self) -> Fraction:
        """Candidate − reference, as an exact share. Raises ZeroDivisionError without examples."""
        return Fraction(self.n01 - self.n10, self.n)

    @property
    def delta_as_counted(self) -> str:
        """The difference in examples, not reduced: `-5/200`."""
        return f"{self.n01 - self.n10}/{self.n}"

    @property
    def discordance(self) -> float:
        """The share of examples on which exactly one of the two is correct."""
        return (self.n10 + self.n01) / self.n

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def delta(self) -> float:
        """Candidate − reference."""
        return _stored(float(self.exact_delta))

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def low(self) -> float:
        """Lower end of Tango's 95 % interval of Δ."""
        return _stored(self._interval.low)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def high(self) -> float:
        """Its upper end."""
        return _stored(self._interval.high)

    @computed_field  # type: ignore[prop-decorator]
    @cached_property
    def mcnemar_p(self) -> float:
        """Exact two-sided p-value of "both are equally good". For display: a large one does not prove equality."""
        from gradience.statistics.paired import mcnemar

        return _stored(mcnemar(self))

    @cached_property
    def _interval(self) -> Interval:
        from gradience.statistics.paired import tango

        return tango(self)


def _stored(value: float) -> float:
    """Round to 12 significant digits, as files have them."""
    return float(f"{value:.12g}")
