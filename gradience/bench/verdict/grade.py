"""The policy (counts of examples -> a verdict) and the grades (strength of the evidence, A to X). Pure.

Policy: exact, in integers and fractions only. The net loss is the number of examples that only the probe has correct,
minus those that only the variant has correct. A seed passes when it loses at most ⌊tolerance · n⌋. A variant passes
when enough of the planned seeds pass and no seed is below the floor. No seed is dropped. A missing seed or one with an
error counts as failed. A seed whose probe did not train makes the result inconclusive.

Grades: from A (best) to X (invalid), on the examples and on guards. Verdict and grade are independent. A variant may
pass the policy while its test is inconclusive (C). A variant that fails the policy is also graded C, even if its drop
is shown to be below the margin.

A variant holds on a guard if its drop there is at most the margin, on each planned seed. A claim about all guards needs
every guard's test, so the joint p-value is the largest one (docs/decisions/032-data-sets.md).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

from gradience.bench.plan import ALPHA
from gradience.reports.base.exact import exact_percent, exact_text
from gradience.reports.base.graded import Bounds, Grade, NextGrade
from gradience.reports.bench import MIN_SEEDS, Status
from gradience.reports.bench_plan import PlannedSet, Policy, allowed_losses, margin_text
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.statistics.paired import exactly
from gradience.statistics.pooled import Claim, Pooled
from gradience.statistics.power import DEFAULT_CORRELATION, Assumptions, discordance_range, seeds_for_next
from gradience.words import counted, noun, points

NO_EVIDENCE: tuple[Status, ...] = ("UNDERTRAINED", "SKIPPED", "INCONCLUSIVE")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status, and the reasons in words."""

    status: Status
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SeedOutcome:
    """Counts of one variant on one planned seed, or the status that explains their absence."""

    seed: int
    status: Status = "PASS"
    """Read only if there are no counts: with counts, they decide."""
    n: int = 0
    only_probe: int = 0
    """Examples that only the probe has correct."""
    only_variant: int = 0
    guard: str = ""
    """Reason why the variant fails a guard; empty if it holds on all guards."""
    why: str = ""
    stopped_early: bool = False
    """Not run, since the variant could no longer pass."""

    @property
    def net_loss(self) -> int:
        """Correct answers of the probe minus those of the variant; negative if the variant has more."""
        return self.only_probe - self.only_variant

    @property
    def delta(self) -> Fraction | None:
        """Variant − probe, as a share of the examples; None without counts."""
        return Fraction(-self.net_loss, self.n) if self.n else None


# ---------------------------------------------------------------- one seed


def passes(n: int, net_loss: int, tolerance: Fraction) -> bool:
    """Return whether at most `tolerance` of `n` examples are lost, net. Exactly at the bound is a pass."""
    return net_loss <= allowed_losses(n, tolerance)


def verdict_of_seed(n: int, only_probe: int, only_variant: int, policy: Policy) -> Verdict:
    """Return PASS or FAIL of one variant on one seed, with the reason.

    only_probe, only_variant: how many of `n` examples only the one has correct.
    """
    net_loss = only_probe - only_variant
    if net_loss == 0:
        change = "as many correct as the probe"
    else:
        change = f"{abs(net_loss):,} {'fewer' if net_loss > 0 else 'more'} correct than the probe"
    pairs = f"only probe: {only_probe:,}, only variant: {only_variant:,}"
    share = f"{exact_percent(policy.tolerance)} of {n:,}"
    bound = f"at most {allowed_losses(n, policy.tolerance):,} are allowed ({share})"
    status: Status = "PASS" if passes(n, net_loss, policy.tolerance) else "FAIL"
    return Verdict(status, (f"{change} ({pairs}); {bound}",))


# ---------------------------------------------------------------- all seeds


def verdict_over_seeds(outcomes: Sequence[SeedOutcome], planned: Sequence[int], policy: Policy) -> Verdict:
    """Return the verdict on one variant over the planned seeds; one without an outcome is a failed seed."""
    by_seed = {outcome.seed: outcome for outcome in outcomes}
    rows = [by_seed.get(seed, SeedOutcome(seed, "ERROR")) for seed in planned]
    if all(row.n == 0 and row.status == "SKIPPED" for row in rows):
        return Verdict("SKIPPED", tuple(dict.fromkeys(row.why for row in rows if row.why)))
    unknown = _without_result([row for row in rows if not row.stopped_early])
    if any(row.stopped_early for row in rows):
        return Verdict("FAIL", (*lost_already(rows, policy), *unknown))
    failures = _failures(rows, policy)
    if any(row.n == 0 and row.status in NO_EVIDENCE for row in rows):
        return Verdict("INCONCLUSIVE", (*unknown, *lost_already(rows, policy)))
    if failures:
        return Verdict("FAIL", (*failures, *unknown))
    worst = min(row.delta for row in rows if row.delta is not None)
    return Verdict("PASS", (f"{_pass(passing(rows, policy), len(rows))}, worst Δ {points(worst)} points",))


def passing(rows: Iterable[SeedOutcome], policy: Policy) -> int:
    """Return how many seeds pass."""
    return sum(row.n > 0 and not row.guard and passes(row.n, row.net_loss, policy.tolerance) for row in rows)


def _pass(number: int, planned: int) -> str:
    verb = "passes" if 1 in (number, planned) else "pass"
    return f"{number} of {counted(planned, 'seed')} {verb}"


def _failures(rows: Sequence[SeedOutcome], policy: Policy) -> list[str]:
    """Reason why the policy is not met; empty if it is met."""
    failures = []
    number = passing(rows, policy)
    rate = Fraction(number, len(rows))
    if rate < policy.pass_rate:
        failures.append(
            f"{_pass(number, len(rows))} ({exact_percent(rate)}; {exact_percent(policy.pass_rate)} needed)"
        )
    below = [row for row in rows if row.n and not passes(row.n, row.net_loss, policy.floor)]
    if below:
        worst = max(below, key=lambda row: Fraction(row.net_loss, row.n))
        allowed = f"at most {allowed_losses(worst.n, policy.floor):,} are allowed"
        failures.append(f"seed {worst.seed}: {worst.net_loss:,} fewer correct than the probe; {allowed}")
    failures += [f"seed {row.seed}: {row.guard}" for row in rows if row.guard]
    errors = [row.seed for row in rows if row.n == 0 and row.status not in NO_EVIDENCE]
    if errors and not failures:
        failures.append(
            f"seed {errors[0]} has no result, so the floor of {exact_percent(policy.floor)} cannot be checked"
        )
    return failures


def _without_result(rows: Iterable[SeedOutcome]) -> list[str]:
    """Return sentences on seeds without counts; those of one kind in one sentence."""
    alike: dict[tuple[Status, str], list[str]] = {}
    for row in rows:
        if row.n == 0:
            alike.setdefault((row.status, row.why), []).append(str(row.seed))
    sentences = []
    for (status, why), seeds in alike.items():
        who = f"{noun(len(seeds), 'seed')} {', '.join(seeds)}"
        because = f" ({why})" if why else ""
        if status in NO_EVIDENCE:
            sentences.append(f"{who}: {status}{because}, no evidence")
        else:
            sentences.append(f"{who}: no result{because}, counted as failed")
    return sentences


def lost_already(rows: Sequence[SeedOutcome], policy: Policy) -> list[str]:
    """Return why a variant can no longer pass, whatever the seeds without evidence show; empty if it can.

    >>> lost_already([SeedOutcome(1, n=200, only_probe=9), SeedOutcome(2, "SKIPPED")], Policy())
    ['cannot pass, even if all other seeds were perfect: 1 of 2 seeds passes (50 %; 67 % needed)']
    """
    best = [SeedOutcome(row.seed, n=1) if row.n == 0 and row.status in NO_EVIDENCE else row for row in rows]
    return [
        f"cannot pass, even if all other seeds were perfect: {why}" for why in _failures(best, policy)[:1]
    ]


def overall(statuses: Iterable[Status]) -> Status:
    """Return the status of a run from those of its candidates. Any ERROR decides; otherwise one PASS is enough."""
    present = set(statuses)
    order: tuple[Status, ...] = ("ERROR", "PASS", "FAIL", "INCONCLUSIVE", "UNDERTRAINED")
    return next((status for status in order if status in present), "SKIPPED")


# ---------------------------------------------------------------- guards


def failed_guards(guards: Sequence[PlannedSet], rows: Mapping[str, EvaluatedAdapter]) -> tuple[str, ...]:
    """Return a sentence for each guard on which the drop of a variant exceeds the margin. rows: of the variant."""
    failed = []
    for guard in guards:
        row = rows.get(guard.name)
        if row is not None and row.gain is not None and (drop := -exactly(row.gain)) > guard.margin:
            dropped, side = margin_text(drop, guard.compares), "lower" if row.pairs else "higher"
            failed.append(f"{guard.name}: {dropped} {side} than the probe; allowed: {guard.margin_words}")
    return tuple(failed)


def joint_p_value(rows: Mapping[str, EvaluatedAdapter]) -> float:
    """Return the p-value of a claim about all guards: the largest, and 1 if one of them is not shown."""
    p_values = (
        1.0 if row.bounds is None or row.grade != "B" else row.bounds.p_value for row in rows.values()
    )
    return max(p_values, default=0.0)


# ---------------------------------------------------------------- grades


NORMAL = "Δ is normally distributed across trainings"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeFacts:
    """Everything that the grade of one variant hangs on."""

    faults: tuple[str, ...] = ()
    """Reason why nothing can be concluded, in words; empty if a conclusion is possible."""
    passes: bool
    """The policy's verdict is PASS."""
    margin: Fraction
    these_runs: Bounds | None
    """None if nothing was compared."""
    next_training: Bounds | None
    """None below three seeds."""
    adjusted_p: float | None
    """p-value for the next training, adjusted for the other candidates, the ladder and the steps above."""
    adjusted_p_these_runs: float | None = None
    """p-value for these runs, adjusted in the same way."""
    family: int = 1
    """Number of claims that share the error rate: the candidates, and the ladder as one."""
    untested: str = ""
    """For a step of a ladder: the earlier step at which the sequence stopped."""
    seeds: int
    obstacles: tuple[str, ...] = ()
    """Reasons against a claim that more seeds or examples would not remove."""
    guards: Mapping[str, EvaluatedAdapter] = field(default_factory=dict)
    """Guard and seed -> the variant's row on it."""

    def on_guards(self, *grades: Grade) -> str:
        """Return the first guard on which the variant has one of these grades, and why; empty if there is none."""
        graded = (f"{place}: {row.reason}" for place, row in self.guards.items() if row.grade in grades)
        return next(graded, "")

    @property
    def supported(self) -> bool:
        """True if a drop of the margin is ruled out for these runs, whatever the policy says."""
        bounds, adjusted = self.these_runs, self.adjusted_p_these_runs
        if bounds is None or self.untested or exactly(bounds.low) <= -self.margin:
            return False
        return adjusted is None or exactly(adjusted) <= ALPHA

    @property
    def besides(self) -> tuple[str, ...]:
        """Reasons against a claim, other than too few seeds or examples."""
        stopped = (f"not tested: the sequence stopped at {self.untested}",) if self.untested else ()
        return (*stopped, *self.obstacles)


class Graded(NamedTuple):
    """A grade, and the reason in one sentence."""

    grade: Grade
    reason: str


def grade(facts: GradeFacts) -> Graded:
    """Return the grade of one variant and its reason. The first match decides.

    X: invalid.
    D: worse: the one-sided 95 % upper bound for these runs is below −margin.
    A: it passes, the bound for the next training is above −margin after adjustment, and `short_of_a` finds nothing.
    B: it passes, and the lower bound for these runs is above −margin after adjustment.
    C: inconclusive, whatever the policy says.
    """
    if facts.faults:
        return Graded("X", f"invalid: {'; '.join(facts.faults)}")
    bounds, margin = facts.these_runs, f"margin {in_points(facts.margin)}"
    sure = f"(95 % confidence, {margin})"
    if bounds is not None and exactly(bounds.high) < -facts.margin:
        return Graded("D", f"worse: accuracy is at least {_size(bounds.high)} points lower {sure}")
    if worse := facts.on_guards("D"):
        return Graded("D", f"on the guard {worse}")
    missing = short_of_a(facts)
    if facts.passes and facts.supported and not missing and facts.next_training is not None:
        worst = at_worst(facts.next_training.low)
        return Graded(
            "A",
            f"shown for the next training: accuracy is {worst}, if {NORMAL} {sure}",
        )
    if facts.passes and bounds is not None and facts.supported:
        worst = at_worst(bounds.low)
        return Graded("B", f"shown for these adapters: accuracy is {worst} {sure}; not A: {missing[0]}")
    policy = f"{'passes' if facts.passes else 'fails'} the policy"
    if bounds is None:
        return Graded("C", f"inconclusive: {policy}, but per-example answers are missing")
    if facts.untested:
        return Graded(
            "C", f"not tested: the sequence stopped at {facts.untested}, so the numbers are exploratory"
        )
    if facts.supported:
        worst = at_worst(bounds.low)
        return Graded("C", f"non-inferior in these runs, but {policy}: accuracy is {worst} {sure}")
    if exactly(bounds.low) > -facts.margin and (unshown := facts.on_guards("C", "X")):
        return Graded("C", f"{policy}, but not shown on the guard {unshown}")
    if exactly(bounds.low) > -facts.margin:
        claims = f"{counted(facts.family, 'claim')} (one per planned variant or ladder)"
        return Graded("C", f"inconclusive after adjustment for {claims}, and {policy} ({margin})")
    may = at_worst(bounds.low, bound="up to ")
    return Graded("C", f"inconclusive, and {policy}: accuracy may be {may} ({margin})")


def short_of_a(facts: GradeFacts) -> tuple[str, ...]:
    """Return what is missing for grade A, apart from the policy's verdict; empty if nothing is."""
    missing, following = [], facts.next_training
    if facts.seeds < MIN_SEEDS:
        missing.append(f"{counted(facts.seeds, 'seed')} ({MIN_SEEDS} or more needed)")
    if following is None:
        missing.append("the spread between training runs is unknown")
    elif exactly(following.low) <= -facts.margin:
        may = at_worst(following.low, bound="up to ")
        missing.append(f"the next training may be {may}, if {NORMAL}")
    elif facts.adjusted_p is None or exactly(facts.adjusted_p) > ALPHA:
        claims = f"{counted(facts.family, 'claim')} (one per planned variant or ladder)"
        missing.append(f"the next training, if {NORMAL}, is inconclusive after adjustment for {claims}")
    return (*missing, *facts.besides)


def at_worst(low: float, *, bound: str = "at most ") -> str:
    """Say in words how much lower accuracy is than the probe's, by the lower bound of Δ."""
    return f"{bound}{_size(low)} points lower" if low < 0 else f"at least {_size(low)} points higher"


def _size(difference: float) -> str:
    return points(abs(difference)).removeprefix("+")


def in_points(share: Fraction) -> str:
    """Format a share as `2.5 points`."""
    return f"{exact_text(share * 100)} points"


# ---------------------------------------------------------------- what a better grade would need


def next_grade(letter: Grade | None, facts: GradeFacts, pooled: Pooled | None) -> NextGrade | None:
    """Return the requirements of the next better grade; None except for a B or C that passes.

    Grade A is adjusted for the other claims: it gets the same share of the level as the weakest claim.
    """
    if letter not in ("B", "C") or pooled is None or not facts.passes:
        return None
    of_guard = ("not shown on a guard",) if facts.on_guards("C", "X") else ()
    if letter == "C":
        needs = needs_of(pooled, facts.margin, "these-runs")
        return NextGrade(
            grade="B",
            examples=needs.examples,
            examples_range=needs.range,
            seeds=needs.seeds,
            obstacles=of_guard,
        )
    seeds = seeds_for_next(pooled, float(facts.margin), level=float(ALPHA) / facts.family)
    return NextGrade(grade="A", examples=None, seeds=seeds, obstacles=(*of_guard, *facts.besides))


class Needs(NamedTuple):
    """Examples and seeds that a claim needs."""

    examples: int | None
    """With as many seeds as there are; for the mean over trainings at least three. None if no number is enough."""
    range: tuple[int, int] | None
    """The same at both ends of the 95 % interval of the discordance."""
    seeds: int | None
    """With as many examples as there are."""


def needs_of(pooled: Pooled, margin: Fraction, claim: Claim) -> Needs:
    """Return what a claim needs, at the noise and the difference that were seen."""
    correlation, seen, delta = DEFAULT_CORRELATION, pooled.discordance or 0.0, min(pooled.delta, 0.0)
    if pooled.runs > 1:
        correlation = min(max((pooled.design_effect - 1) / (pooled.runs - 1), 0.0), 1.0)
    assumed = Assumptions(
        seen,
        seeds=pooled.runs if claim == "these-runs" else max(pooled.runs, MIN_SEEDS),
        spread=math.sqrt(pooled.run_variance or 0.0),
        claim=claim,
        correlation=correlation,
        delta=delta,
        level=float(ALPHA),
    )
    allowed = float(margin)
    low, high = (
        replace(assumed, discordance=max(end, -delta)).examples_needed(allowed)
        for end in discordance_range(seen, pooled.independent_examples)
    )
    return Needs(
        assumed.examples_needed(allowed),
        None if low is None or high is None else (low, high),
        assumed.seeds_needed(pooled.examples, allowed) if delta > -allowed else None,
    )
