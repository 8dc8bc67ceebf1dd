"""Evidence beside a verdict: the parts that several reports share.

Differences are candidate − reference, as shares: −0.025 is a drop of 2.5 points. A margin is positive, and
"non-inferior" means that the drop is smaller than the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from gradience.files.artifact import Float12, Part, absent_at
from gradience.reports.base.blocks import Inline, Mark, Note, Span, Tone
from gradience.reports.base.numbers import round_up

if TYPE_CHECKING:  # scipy is loaded to compute evidence, not to read a file
    from gradience.statistics.paired import Interval

Grade = Literal["A", "B", "C", "D", "X"]
GRADES: dict[Grade, tuple[Mark, str]] = {
    "A": ("good", "shown for the next training"),
    "B": ("good", "shown for these adapters"),
    "C": ("unknown", "inconclusive"),
    "D": ("error", "worse"),
    "X": ("error", "could not be evaluated"),
}
GRADE_TONES: dict[Grade | None, Tone] = {
    "A": "good",
    "B": "good",
    "C": "warn",
    "D": "bad",
    "X": "dim",
    None: "dim",
}

Probability = Float12


def grade_note(name: str, grade: Grade | None, reason: str, details: Sequence[Inline] = ()) -> list[Note]:
    """Return the grade of a candidate with its reason; empty without a grade."""
    if grade is None:
        return []
    return [Note(GRADES[grade][0], (Span(name, "name"), f": {grade}, {reason}"), details)]


class LikelihoodEvidence(Part):
    """Likelihood of the given responses, in nats per token: lower is likelier. A difference is per token of
    the mean example, so that every example is weighted by its length.

    >>> evidence = LikelihoodEvidence.of([-9.0, -12.0, -6.0], [3, 4, 2], [-9.2, -12.1, -6.0])
    >>> round(evidence.nll, 4), round(evidence.delta, 4), round(evidence.low, 4), round(evidence.high, 4)
    (3.0333, 0.0333, -0.0495, 0.1161)
    """

    tokens: int
    """Tokens of the responses, including end tokens if they are scored."""
    nll: Float12
    """Negative log-likelihood per token."""
    delta: Float12 | None = None
    """ΔNLL: candidate − reference; above 0, the reference finds the responses likelier. Null for the reference."""
    low: Float12 | None = None
    """Lower end of Student's 95 % interval of ΔNLL; null for a single example."""
    high: Float12 | None = None
    """Upper end of the interval."""
    spread: Float12 | None = None
    """Standard deviation of the per-example differences."""

    @classmethod
    def of(
        cls, reference: Sequence[float], tokens: Sequence[int], candidate: Sequence[float] | None = None
    ) -> Self:
        """Return the evidence from log-likelihoods of the same examples; without `candidate`, only the reference's."""
        from statistics import stdev

        from gradience.statistics.paired import mean_difference

        count = sum(tokens)
        if candidate is None:
            return cls(tokens=count, nll=-math.fsum(reference) / count)
        differences = per_token(reference, tokens, candidate)
        several = len(differences) > 1
        low, high = mean_difference(differences) if several else (None, None)
        return cls(
            tokens=count,
            nll=-math.fsum(candidate) / count,
            delta=-math.fsum(differences) / len(differences),
            low=None if high is None else -high,
            high=None if low is None else -low,
            spread=stdev(differences) if several else None,
        )


def per_token(reference: Sequence[float], tokens: Sequence[int], candidate: Sequence[float]) -> list[float]:
    """Return the gain of each example in log-likelihood, per token of the mean example."""
    mean = sum(tokens) / len(tokens)
    return [(after - before) / mean for before, after in zip(reference, candidate, strict=True)]


class Bounds(Part):
    """Bounds on Δ: a 90 % interval, each end of which is a one-sided 95 % bound."""

    low: Float12
    """Δ is above this, with 95 % confidence."""
    high: Float12
    """Δ is below this, with 95 % confidence."""
    p_value: Probability
    """One-sided p-value of "the candidate loses the margin or more": small if it does not."""

    @classmethod
    def of(cls, interval: Interval, p_value: float) -> Self:
        """Return the two ends and the p-value."""
        return cls(low=interval.low, high=interval.high, p_value=p_value)


class NextGrade(Part):
    """Requirements for the next better grade."""

    grade: Grade
    examples: int | None
    """B: examples needed with the current number of seeds, for a chance of 80 % if the true difference is the
    observed one, or 0 if that is above 0. Null if no number is enough, and for A, which needs seeds."""
    examples_range: tuple[int, int] | None = absent_at(None)
    """The same at both ends of the 95 % interval of the discordance (of other scores: of the variance). Absent if no
    number is enough."""
    seeds: int | None
    """B: seeds needed with the current number of examples, for the same chance. A: seeds needed if mean and
    spread over seeds stay as observed. Null if 100 are not enough, and if the spread is unknown."""
    obstacles: tuple[str, ...] = ()
    """Reasons that more seeds or examples would not remove."""

    @property
    def examples_words(self) -> str:
        """The examples needed, rounded up to two digits, as a range where one is known: `about 560 to 1,400`."""
        low, high = map(round_up, self.examples_range or (self.examples or 0, self.examples or 0))
        return f"about {low:,}" if low == high else f"about {low:,} to {high:,}"
