"""Evidence beside a verdict: the parts that files of one run and of several runs share.

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
from gradience.reports.bench_plan import LadderBound, Share

if TYPE_CHECKING:  # scipy is loaded to compute evidence, not to read a file
    from fractions import Fraction

    import numpy as np
    from numpy.typing import NDArray

    from gradience.statistics.paired import Interval
    from gradience.statistics.pooled import Claim, Pooled
    from gradience.statistics.sequential import Look

MIN_RUNS = 3
"""Smallest number of training runs for which a bound on other training runs is given: two show too little of
their spread."""
Grade = Literal["A", "B", "C", "D", "X"]
BOUNDS: dict[LadderBound, str] = {
    "these-runs": "these runs",
    "mean-over-trainings": "the mean over trainings",
}
"""Description of each bound."""
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


class PooledEvidence(Part):
    """Combined evidence of several runs on the same examples.

    >>> from fractions import Fraction
    >>> import numpy as np
    >>> from gradience.statistics.pooled import pool
    >>> differences = np.zeros((3, 500), dtype=int)      # three seeds, 500 examples
    >>> differences[:, :6], differences[:, 6:10] = -1, 1  # each seed: 6 lost, 4 gained
    >>> evidence = PooledEvidence.of(pool(differences), Fraction("0.025"))
    >>> evidence.delta, round(evidence.over_trainings.low, 4), round(evidence.next_training.low, 4)
    (-0.004, -0.0168, -0.0295)
    """

    runs: int
    examples: int
    """Examples of each run; all runs have the same ones."""
    margin: Share
    """The loss that must be ruled out."""
    delta: Float12
    """Candidate − reference, mean over runs and examples."""
    these_runs: Bounds
    """Bounds with the runs fixed: only the examples are a sample."""
    over_trainings: Bounds | None
    """Bounds on the mean over all training runs that the recipe could produce. Null below three runs."""
    next_training: Bounds | None
    """Bounds on one more training run, if runs vary normally. Null below three runs."""
    discordance: Float12 | None
    """Share of pairs in which exactly one of the two is correct; null unless scores are 0/1."""
    run_spread: Float12 | None
    """τ: standard deviation of a run's true difference, excluding the choice of examples. Null for one run."""

    @classmethod
    def of(cls, pooled: Pooled, margin: Fraction, *, look: Look | None = None) -> Self:
        """Return the evidence of pooled runs against a margin. look: the bounds hold over all looks."""

        def bounds(claim: Claim) -> Bounds:
            p_value, confidence = pooled.p_value(float(margin), claim), 0.90
            if look is not None:
                p_value, confidence = look.p_value(p_value), look.confidence(confidence)
            return Bounds.of(pooled.interval(claim, confidence), p_value)

        several = pooled.runs >= MIN_RUNS
        return cls(
            runs=pooled.runs,
            examples=pooled.examples,
            margin=margin,
            delta=pooled.delta,
            these_runs=bounds("these-runs"),
            over_trainings=bounds("mean-over-trainings") if several else None,
            next_training=bounds("next-training") if several else None,
            discordance=pooled.discordance,
            run_spread=None if pooled.run_variance is None else math.sqrt(pooled.run_variance),
        )

    def bounds(self, claim: LadderBound) -> Bounds | None:
        """Return the bounds of a ladder's claim."""
        return self.these_runs if claim == "these-runs" else self.over_trainings


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


class NoiseFloor(Part):
    """Differences between adapters of equal size."""

    comparisons: int
    discordance: Float12
    """Mean share of examples on which exactly one of the two is correct."""
    delta_sd: Float12
    """Root mean square of the difference in accuracy."""
    largest_delta: Float12

    @classmethod
    def of(cls, differences: NDArray[np.int8]) -> Self:
        """Return the noise of paired differences: (comparisons, examples), −1, 0 or 1.

        >>> import numpy as np
        >>> floor = NoiseFloor.of(np.array([[0, 1, 0, 0], [0, 0, -1, 0], [0, -1, -1, 0]]))
        >>> floor.comparisons, round(floor.discordance, 3), round(floor.largest_delta, 3)
        (3, 0.333, 0.5)
        """
        deltas = differences.mean(axis=1)
        return cls(
            comparisons=len(differences),
            discordance=float(abs(differences).mean()),
            delta_sd=math.sqrt(float((deltas**2).mean())),
            largest_delta=float(abs(deltas).max()),
        )


class VariantEvidence(Part):
    """Evidence for the verdict on one variant."""

    grade: Grade | None
    """Null for a control, and for a variant that was not made: nothing is claimed about either."""
    reason: str
    """Explanation of the grade in one sentence; empty without a grade."""
    pooled: PooledEvidence | None
    """Null if the per-example answers are unknown."""
    adjusted_p: Probability | None
    """Adjusted p-value of the claim about the next training run, which grade A is based on: one error rate for
    all candidates of the plan and the ladder (Holm), whose steps follow each other. Null below three seeds, and
    for controls."""
    adjusted_p_these_runs: Probability | None
    """Adjusted p-value of the claim about these runs, which grade B is based on, in the same way; for a step, of
    the ladder's bound. Null for controls."""
    family: int | None
    """Number of claims that share the error rate: the candidates, and the ladder as one."""
    next_grade: NextGrade | None
    """Null for A, D and X, without a grade, and if the variant fails the policy."""


class Noise(Part):
    """Differences between adapters of equal size: the noise floors."""

    probes: NoiseFloor | None
    """The probes of different seeds compared with each other, on the same examples."""
    rewrite_control: NoiseFloor | None
    """The rewrite control compared with the probe of its seed: the same update in other factors."""


StepStatus = Literal["shown", "inconclusive", "not tested", "not smaller"]


class Step(Part):
    """One step of the ladder."""

    name: str
    """Name of the result."""
    step: int
    """Its rank."""
    status: StepStatus
    """`not smaller`: no rank is below the probe's. `not tested`: the sequence had stopped above it; its row
    among the variants is exploratory."""
    reason: str = ""
    """Reason why it could not be tested."""
    delta: Float12 | None
    low: Float12 | None
    """The lower bound that was compared with the margin."""
    p_value: Probability | None
    adjusted_p: Probability | None = None
    """Adjusted for the steps above and the candidates: at most 0.05 for a step that is shown."""
    examples: int | None = absent_at(None)
    """Examples of each seed at the look that decided; absent if all were evaluated at once."""
    stopped: str | None = absent_at(None)
    """Reason for stopping at that look: `shown`, `worse`, `conditional power`, `last look`."""

    @property
    def words(self) -> str:
        """The status, and why nothing could be tested."""
        return (
            f"{self.status}: {self.reason}" if self.reason and self.status == "inconclusive" else self.status
        )


class NextStep(Part):
    """Requirements of the first step that was not shown, for a chance of 80 % if its true difference is the
    observed one, or 0 if that is above 0."""

    name: str
    examples: int | None
    """Examples needed with the same number of seeds; null if no number is enough."""
    examples_range: tuple[int, int] | None = absent_at(None)
    """The same at both ends of the 95 % interval of the discordance. Absent if no number is enough."""
    seeds: int | None
    """Seeds needed with the same number of examples; null if 100 are not enough."""


class Ladder(Part):
    """The smallest rank that is shown within the margin: steps are tested from the top until one is not shown."""

    bound: LadderBound
    """The bound that was tested: `these-runs` below three seeds, which give no evidence about other training runs."""
    margin: Share
    steps: tuple[Step, ...]
    smallest_safe: str | None
    """The last step that is shown; null if none is."""
    sentence: str
    next_step: NextStep | None
    """Null if all steps are shown, or none could be tested."""
