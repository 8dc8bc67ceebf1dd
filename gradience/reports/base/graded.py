"""Evidence beside a verdict: the parts that a file of one run and a file of several have alike.

Differences are candidate − reference, as shares: −0.025 is 2.5 points fewer correct. A margin is positive, and
"non-inferior" means that the loss is smaller than the margin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Self

from gradience.files.artifact import Float12, Part
from gradience.reports.base.blocks import Mark
from gradience.reports.bench_plan import LadderBound, LadderKind, Share

if TYPE_CHECKING:  # scipy is loaded where something is computed, not where a file is read
    from fractions import Fraction

    from gradience.statistics.paired import Interval
    from gradience.statistics.pooled import Claim, Pooled
    from gradience.statistics.pooled import NoiseFloor as Floor

MIN_RUNS = 3
"""Of fewer trainings no bound on other trainings is given: two show too little of their spread."""
Grade = Literal["A", "B", "C", "D", "X"]
BOUNDS: dict[LadderBound, str] = {
    "these-runs": "these runs",
    "mean-over-trainings": "the mean over trainings",
    "next-training": "the next training",
}
"""What a bound is about, in words."""
"""A: certified. B: supported for these runs. C: inconclusive. D: worse. X: invalid."""
GRADES: dict[Grade, tuple[Mark, str]] = {
    "A": ("good", "certified"),
    "B": ("good", "supported for these runs"),
    "C": ("unknown", "inconclusive"),
    "D": ("error", "worse"),
    "X": ("error", "invalid"),
}

Probability = Float12


class LikelihoodEvidence(Part):
    """How likely given responses are, in nats per token: less is likelier. A difference is per token of the mean
    example, so that every example counts with its length.

    >>> evidence = LikelihoodEvidence.of([-9.0, -12.0, -6.0], [3, 4, 2], [-9.2, -12.1, -6.0])
    >>> round(evidence.nll, 4), round(evidence.delta, 4), round(evidence.low, 4), round(evidence.high, 4)
    (3.0333, 0.0333, -0.0495, 0.1161)
    """

    tokens: int
    """Of the responses, the end tokens included where they count."""
    nll: Float12
    """Negative log-likelihood per token."""
    delta: Float12 | None = None
    """ΔNLL: this one − the reference; above 0 the reference finds the responses likelier. Null for the reference."""
    low: Float12 | None = None
    """Lower end of Student's 95 % interval of ΔNLL; null for a single example."""
    high: Float12 | None = None
    """Its upper end."""
    spread: Float12 | None = None
    """Standard deviation of the differences of single examples."""

    @classmethod
    def of(
        cls, reference: Sequence[float], tokens: Sequence[int], candidate: Sequence[float] | None = None
    ) -> Self:
        """Return the evidence of log-likelihoods of the same examples; of the reference alone without `candidate`."""
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
    """Return what each example gains in log-likelihood, per token of the mean example."""
    mean = sum(tokens) / len(tokens)
    return [(after - before) / mean for before, after in zip(reference, candidate, strict=True)]


class Bounds(Part):
    """What is shown of Δ: a 90 % interval, each end of which is a one-sided 95 % bound."""

    low: Float12
    """Δ is above this, with 95 % confidence."""
    high: Float12
    """Δ is below this, with 95 % confidence."""
    p_value: Probability
    """One-sided, of "the candidate loses the margin or more": small where it does not."""

    @classmethod
    def of(cls, interval: Interval, p_value: float) -> Self:
        """Return the two ends and the p-value."""
        return cls(low=interval.low, high=interval.high, p_value=p_value)


class PooledEvidence(Part):
    """What several runs on the same examples show together.

    >>> from fractions import Fraction
    >>> import numpy as np
    >>> from gradience.statistics.pooled import pool
    >>> differences = np.zeros((3, 500), dtype=int)      # three seeds, 500 examples
    >>> differences[:, :6], differences[:, 6:10] = -1, 1  # each seed: 6 lost, 4 gained
    >>> evidence = PooledEvidence.of(pool(differences), Fraction("0.025"))
    >>> evidence.delta, round(evidence.over_trainings.low, 4), round(evidence.next_training.low, 4)
    (-0.004, -0.0161, -0.0295)
    """

    runs: int
    examples: int
    """Of each run: the same ones."""
    margin: Share
    """The loss that must be ruled out."""
    delta: Float12
    """Candidate − reference, mean over runs and examples."""
    these_runs: Bounds
    """The runs are fixed, and only the examples are a sample."""
    over_trainings: Bounds | None
    """Of the mean over all trainings that the recipe could give. Null below three runs."""
    next_training: Bounds | None
    """Of one more training, if trainings vary normally. Null below three runs."""
    discordance: Float12 | None
    """Share of pairs in which exactly one of the two is correct; null for scores that are no 0/1."""
    run_spread: Float12 | None
    """τ: standard deviation of a run's true difference, beyond the choice of examples. Null for one run."""
    bootstrap_low: Float12 | None = None
    """A cross-check of `these_runs.low`: examples resampled 10,000 times, with a fixed seed."""

    @classmethod
    def of(cls, pooled: Pooled, margin: Fraction, *, bootstrap_low: float | None = None) -> Self:
        """Return the evidence of pooled runs against a margin."""

        def bounds(claim: Claim) -> Bounds:
            return Bounds.of(pooled.interval(claim), pooled.p_value(float(margin), claim))

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
            bootstrap_low=bootstrap_low,
        )


class OperatingCharacteristics(Part):
    """What the safety policy does at the discordance and the spread that were seen."""

    pass_if_equal: Probability
    """Chance that a variant that is exactly equal passes (Δ = 0)."""
    pass_if_twice_margin: Probability
    """Chance that a variant that loses twice the margin passes (Δ = −2·margin)."""


class NextGrade(Part):
    """What the next better grade needs."""

    grade: Grade
    examples: int | None
    """B: with as many seeds as now, for a chance of 80 % if the true difference is the one that was seen, or 0 if that
    is above 0. Null if no number is enough, and for A, which needs seeds."""
    seeds: int | None
    """B: with as many examples as now, for the same. A: if mean and spread over seeds stay as seen. Null if 100 are not
    enough, and if the spread is not known."""
    obstacles: tuple[str, ...] = ()
    """What neither more seeds nor more examples change, in words."""


class NoiseFloor(Part):
    """How much differs although nothing was made smaller."""

    comparisons: int
    discordance: Float12
    """Mean share of examples on which exactly one of the two is correct."""
    delta_sd: Float12
    """Root mean square of the difference in accuracy."""
    largest_delta: Float12

    @classmethod
    def of(cls, floor: Floor) -> Self:
        """Return the part for what `gradience.statistics.noise_floor` computes."""
        return cls(
            comparisons=floor.comparisons,
            discordance=floor.discordance,
            delta_sd=floor.delta_sd,
            largest_delta=floor.largest_delta,
        )


class VariantEvidence(Part):
    """How sure the verdict on one variant is."""

    grade: Grade | None
    """Null for a control, and for what was not made: nothing is claimed of it."""
    reason: str
    """In one sentence; empty without a grade."""
    pooled: PooledEvidence | None
    """Null where the answers, example by example, are not known."""
    adjusted_p: Probability | None
    """Of the claim about the next training, which grade A rests on: Holm's over all candidates of the plan; of a step,
    the largest down to it. Null below three seeds, and for controls."""
    adjusted_p_these_runs: Probability | None
    """Of the claim about these runs, which grade B rests on: Holm's over all candidates. Null for steps, controls."""
    family: int | None
    """How many claims it is adjusted for."""
    policy: OperatingCharacteristics | None
    """Null for controls, and without `pooled`."""
    next_grade: NextGrade | None
    """Null for A, D and X, and without a grade."""


class AnswerCounts(Part):
    """What happened to the answers of one adapter, over all seeds that have some."""

    n: int
    """Answers."""
    failed_extractions: int
    """Outputs in which no answer was found; they count as wrong."""
    cut_off: int
    """Outputs that ended at `max_new_tokens`."""
    truncated: int
    """Inputs that were too long and were cut."""


class Noise(Part):
    """What differs although nothing was made smaller."""

    probes: NoiseFloor | None
    """The probes of different seeds against each other, on the same examples."""
    rewrite: NoiseFloor | None
    """The rewrite control `aa` against the probe of its seed: the same update in other factors."""


StepStatus = Literal["shown", "inconclusive", "not tested", "not smaller"]


class Step(Part):
    """One step of the ladder."""

    name: str
    """Of the result."""
    step: int | float
    """A rank, or the share of each module's energy that is kept."""
    status: StepStatus
    """`not smaller`: no rank is below the probe's. `not tested`: the sequence had stopped above it; what its row of the
    variants says is exploratory."""
    reason: str = ""
    """Why it could not be tested."""
    delta: Float12 | None
    low: Float12 | None
    """The lower bound that was held against the margin."""
    p_value: Probability | None


class NextStep(Part):
    """What the first step that was not shown would have needed, for a chance of 80 % if its true difference is the one
    that was seen, or 0 where that is above 0."""

    name: str
    examples: int | None
    """With as many seeds as there were; null where no number is enough."""
    seeds: int | None
    """With as many examples as there were; null where 100 are not enough."""


class Ladder(Part):
    """The smallest rank that holds: tested from the top, each at the full level, until one is not shown."""

    kind: LadderKind
    planned_bound: LadderBound
    """What the plan names."""
    bound: LadderBound
    """What was tested: `these-runs` below three seeds, which say nothing of other trainings."""
    margin: Share
    steps: tuple[Step, ...]
    smallest_safe: str | None
    """The last step that is shown; null where none is."""
    sentence: str
    next_step: NextStep | None
    """Null where all are shown, or none could be tested."""
