"""The grade: how sure a verdict is, from A (certified) to X (invalid). Pure; a total function, the first match wins.

The policy's verdict and the grade are two axes: a variant may pass and not be shown to be as good (C), or fail and be
shown to be (still C: the policy decides what may be claimed).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from gradience.bench.plan.preregister import ALPHA
from gradience.bench.verdict.conditions import MIN_SEEDS
from gradience.reports.base.exact import exact_text
from gradience.reports.base.graded import Bounds, Grade
from gradience.words import counted, points

SCALE_CHANGED = "its scale α/r is not the probe's"
"""Said of a variant that ends in an error for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeFacts:
    """Everything that the grade of one variant hangs on."""

    # ---- what makes it invalid (X) where it is not so
    gate_passed: bool = True
    """On every seed that has a probe."""
    pairs_complete: bool = True
    """Every planned seed has the answers of both, to the same examples."""
    one_engine: bool = True
    """The same dtype and quantization on every seed."""
    scale_held: bool = True
    """α/r is the probe's in every module."""
    same_as: str = ""
    """The variant that it repeats on every seed."""
    seeded: bool = True
    """Every training began at a point of its own, set by its seed."""
    blind: str = ""
    """The control that must fail and passed on all seeds."""

    # ---- what was found
    passes: bool
    """The policy's verdict is PASS."""
    margin: Fraction
    these_runs: Bounds | None
    """F; None where the answers, example by example, are not known."""
    new_run: Bounds | None
    """R; None for one seed."""
    adjusted_p: float | None
    """Of R: adjusted for the other variants (Holm), or for the rungs above (fixed sequence)."""
    family: int = 1
    """How many claims it was adjusted for."""
    untested: str = ""
    """Of a rung of a ladder: the rung at which the sequence had stopped before."""

    pass_if_equal: float | None = None
    """The chance that an adapter which is exactly as good passes the policy."""

    # ---- what a certificate needs besides
    seeds: int
    confirm_untouched: bool = True
    plan_followed: bool = True
    records_verified: bool = True


class Graded(NamedTuple):
    """A grade, and the reason in one sentence."""

    grade: Grade
    reason: str


def grade(facts: GradeFacts) -> Graded:
    """Return the grade of one variant and why.

    X: invalid. D: inferior, the one-sided 95 % upper bound for these runs lies below −margin. A: certified, it passes,
    the bound for a new run lies above −margin after adjustment, and `short_of_a` finds nothing. B: supported for these
    runs, it passes and their bound lies above −margin. C: neither is shown, whatever the policy says.
    """
    if invalid := faults(facts):
        return Graded("X", f"invalid: {'; '.join(invalid)}")
    margin = f"(margin {in_points(facts.margin)})"
    bounds = facts.these_runs
    if bounds is not None and exactly(bounds.high) < -facts.margin:
        return Graded("D", f"inferior: with 95 % confidence it has {_or_worse(bounds.high)} {margin}")
    missing = short_of_a(facts)
    if facts.passes and not missing and facts.new_run is not None:
        worst = at_worst(facts.new_run.low)
        return Graded(
            "A", f"certified: with 95 % confidence it has {worst} in a new training run too {margin}"
        )
    if facts.passes and bounds is not None and supported(facts):
        worst = at_worst(bounds.low)
        return Graded(
            "B",
            f"supported for these runs: with 95 % confidence it has {worst} {margin}; not A: {missing[0]}",
        )
    return Graded("C", _neither(facts, margin))


def supported(facts: GradeFacts) -> bool:
    """Return whether a loss of the margin is ruled out for these runs, whatever the policy says."""
    bounds = facts.these_runs
    return bounds is not None and exactly(bounds.low) > -facts.margin and not facts.untested


def faults(facts: GradeFacts) -> tuple[str, ...]:
    """Return why nothing can be concluded, in words; empty where something can."""
    checks = (
        (not facts.gate_passed, "the probe does not pass its quality gate"),
        (not facts.pairs_complete, "a planned seed has no answers to compare"),
        (not facts.one_engine, "the seeds were not computed in the same precision"),
        (not facts.scale_held, SCALE_CHANGED),
        (bool(facts.same_as), f"the same adapter as {facts.same_as}: one result, not two"),
        (not facts.seeded, "its training was not seeded"),
        (bool(facts.blind), f"{facts.blind} must fail and passes on all seeds: a loss would not be seen"),
    )
    return tuple(words for is_so, words in checks if is_so)


def short_of_a(facts: GradeFacts) -> tuple[str, ...]:
    """Return what a certificate lacks, the verdict of the policy apart; empty where it lacks nothing."""
    few = f"{counted(facts.seeds, 'seed')}, and {MIN_SEEDS} or more are needed"
    checks = (
        (facts.seeds < MIN_SEEDS, few),
        (facts.new_run is None, "the spread between training runs is unknown"),
        (facts.new_run is not None and not _shown(facts), _not_shown(facts)),
    )
    return (*(words for is_so, words in checks if is_so), *besides(facts))


def besides(facts: GradeFacts) -> tuple[str, ...]:
    """Return what a certificate lacks that neither seeds nor examples give."""
    checks = (
        (bool(facts.untested), f"not tested, the sequence stopped at {facts.untested}"),
        (not facts.confirm_untouched, "not all of an untouched confirm split was evaluated"),
        (not facts.plan_followed, "the seeds do not follow one plan to its end"),
        (not facts.records_verified, "its records were not verified"),
    )
    return tuple(words for is_so, words in checks if is_so)


def _shown(facts: GradeFacts) -> bool:
    """Whether R rules out a loss of the margin, adjusted for the other claims."""
    return (
        facts.new_run is not None
        and exactly(facts.new_run.low) > -facts.margin
        and facts.adjusted_p is not None
        and exactly(facts.adjusted_p) <= ALPHA
    )


def _not_shown(facts: GradeFacts) -> str:
    if facts.new_run is None:
        return ""
    if exactly(facts.new_run.low) > -facts.margin:
        return f"for a new training run it is not shown after adjustment for {counted(facts.family, 'claim')}"
    return f"in a new training run it may have {at_worst(facts.new_run.low, bound='')}"


def _neither(facts: GradeFacts, margin: str) -> str:
    """Why it is a C."""
    verdict = f"{'passes' if facts.passes else 'fails'} the policy"
    bounds = facts.these_runs
    if bounds is None:
        return f"{verdict}; nothing more is shown, since its answers, example by example, are not in the file"
    if facts.untested:
        return f"not tested, since the sequence stopped at {facts.untested}: its numbers are exploratory"
    if supported(facts):
        chance = facts.pass_if_equal
        luck = (
            ""
            if chance is None
            else f"; one that is exactly as good fails in {100 * (1 - chance):.0f} % of such runs"
        )
        return (
            "policy FAIL, statistically non-inferior: with 95 % confidence it has"
            f" {at_worst(bounds.low)} in these runs {margin}{luck}"
        )
    return f"{verdict}, and is not shown to be as good: it may have {at_worst(bounds.low, bound='')} {margin}"


def exactly(value: float) -> Fraction:
    """A number as a file has it: −0.025 is the margin exactly, and its binary number is a little less."""
    return Fraction(repr(value))


def at_worst(low: float, *, bound: str = "at most ") -> str:
    """A lower bound of Δ in words."""
    size = points(abs(low)).removeprefix("+")
    if low < 0:
        return f"{bound}{size} points fewer correct than the probe"
    return f"{'at least ' if bound else ''}{size} points more correct than the probe"


def _or_worse(high: float) -> str:
    """An upper bound of Δ, which is below 0, in words."""
    return f"at least {points(-high).removeprefix('+')} points fewer correct than the probe"


def in_points(share: Fraction) -> str:
    return f"{exact_text(share * 100)} points"
