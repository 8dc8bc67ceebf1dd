"""Statistical power of a budget: the claims it can support, their sample sizes, and the policy's decision.
Pure.

The number of answers that a variant will change is unknown beforehand. So every figure depends on an
assumption: the results of earlier runs, the user's own value, or a few values that cover most runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import product
from statistics import fmean, variance
from typing import Any, Literal, NamedTuple

from gradience.bench.plan.preregister import ALPHA
from gradience.bench.plan.variants import PlannedVariant
from gradience.reports.bench import BenchAggregate, VariantSummary
from gradience.reports.bench_plan import Policy, allowed_losses
from gradience.reports.power import Need, PowerReport, Scenario
from gradience.statistics.power import (
    DEFAULT_CORRELATION,
    discordance_range,
    examples_needed,
    pass_probability,
    power,
    seeds_needed,
    smallest_margin,
)

PlannedClaim = Literal["these-runs", "mean-over-trainings"]
CLAIMS: tuple[PlannedClaim, ...] = ("these-runs", "mean-over-trainings")
SPREADS = (0.0, 0.01)
TRUNCATED, RETRAINED = (0.03, 0.08), (0.12, 0.20)
"""Range of the discordances of variants in small and in published runs."""


class Assumed(NamedTuple):
    """Assumed noise of a variant."""

    name: str
    discordance: float
    spread: float
    seen: int | None = None
    """Pairs that showed the discordance; None if it is assumed."""


class Assumptions(NamedTuple):
    """Assumed variants, and the source of each assumption."""

    of: Sequence[Assumed]
    why: Sequence[str]


def plausible(*, truncated: bool = True, retrained: bool = True) -> Assumptions:
    """Return a few variants of the requested arms that span most others."""
    arms = [("truncated", TRUNCATED)] * truncated + [("retrained", RETRAINED)] * retrained
    of = [Assumed(name, share, spread) for name, shares in arms for share, spread in product(shares, SPREADS)]
    why = (
        "plausible values, not measured: a truncation changes 3 to 8 % of the answers and a retraining 12 to 20 %, and"
        " the true difference of a run spreads by 0 to 1 point over seeds; `gradience bench power --from DIR` takes"
        " what a run has shown"
    )
    return Assumptions(of, [why])


def plausible_for(wanted: Iterable[PlannedVariant]) -> Assumptions:
    """Return the plausible ones of the arms that a config asks for."""
    arms = {variant.is_trained for variant in wanted if variant.control is None}
    return plausible(truncated=False in arms, retrained=True in arms)


def stated(discordances: Sequence[float], spreads: Sequence[float]) -> Assumptions:
    """Return every combination of discordance and spread. A missing one is replaced by the plausible
    values.
    """
    if not discordances:
        every = plausible()
        alike = [
            variant._replace(spread=spread) for variant in every.of[:: len(SPREADS)] for spread in spreads
        ]
        return Assumptions(alike, [*every.why, "the given spread"])
    how = "the given discordance and spread" if spreads else "the given discordance"
    of = [Assumed("a variant", *pair) for pair in product(discordances, spreads or SPREADS)]
    more = [] if spreads else ["a plausible spread, not measured: 0 to 1 point"]
    return Assumptions(of, [how, *more])


def observed(results: Sequence[BenchAggregate], source: str) -> Assumptions:
    """Return what earlier runs have shown of their variants. source: what they are called."""
    seeds = sorted({len(together.planned_seeds) for together in results})
    of = [variant for together in results for variant in seen_in(together)]
    why = f"discordance and spread of each variant as {source} has them"
    if seeds[:1] == [1]:
        why += "; one seed shows no spread: 0 to 1 point is plausible"
    few = [] if not seeds or max(seeds) > 4 else ["a spread that a few seeds have shown is itself uncertain"]
    return Assumptions(of, [why, *few])


def seen_in(together: BenchAggregate) -> Iterator[Assumed]:
    """Yield what candidates and steps have shown; not of a variant that is another one under a second name."""
    for variant in together.variants:
        if not variant.is_control and any(row.n and row.same_as is None for row in variant.seeds):
            yield from _seen_of(variant)


def _seen_of(variant: VariantSummary) -> Iterator[Assumed]:
    rows = [row for row in variant.seeds if row.n]
    pairs = [((row.only_probe_correct or 0), (row.only_variant_correct or 0), row.n or 0) for row in rows]
    examples = sum(n for _, _, n in pairs)
    # None of N differ: a share of 3/N would have shown one with a chance of 95 %.
    discordance = max(sum(probe + variant for probe, variant, _ in pairs), 3) / examples
    if len(rows) < 2:
        yield from (Assumed(variant.name, discordance, spread, examples) for spread in SPREADS)
        return
    explained = discordance * (1 - DEFAULT_CORRELATION) / fmean(n for _, _, n in pairs)
    apart = variance((gained - lost) / n for lost, gained, n in pairs)
    yield Assumed(variant.name, discordance, math.sqrt(max(0.0, apart - explained)), examples)


def power_report(
    n: int, seeds: int, policy: Policy, assumed: Iterable[Assumed], *, margin: Fraction | None = None,
    assumptions: Sequence[str] = (),
) -> PowerReport:  # fmt: skip
    """Return the margins and power of `n` examples and `seeds` seeds. margin: by default the policy's tolerance."""
    margin = policy.tolerance if margin is None else margin
    return PowerReport(
        n=n,
        seeds=seeds,
        margin=margin,
        alpha=ALPHA,
        correlation=DEFAULT_CORRELATION,
        policy=policy,
        allowed=allowed_losses(n, policy.tolerance),
        scenarios=tuple(scenario(variant, n, seeds, policy, float(margin)) for variant in assumed),
        assumptions=tuple(assumptions),
    )


def report_of_numbers(n: int, seeds: int, margin: Fraction | None, assumptions: Assumptions) -> PowerReport:
    """Return the report for a budget of which only the size is known."""
    policy = Policy() if margin is None else Policy(tolerance=margin, floor=margin)
    return power_report(n, seeds, policy, assumptions.of, assumptions=rests_on(assumptions))


def rests_on(assumptions: Assumptions, *, tested: int = 1) -> list[str]:
    """Say what the figures rest on. tested: how many variants are tested together."""
    sentences = [
        *assumptions.why,
        f"assumed: the differences of two runs on one example correlate by {DEFAULT_CORRELATION}",
        "one-sided tests at 5 %; a grade of A also needs three seeds",
    ]
    if tested > 1:
        level = 100 * float(ALPHA) / tested
        sentences.append(
            f"figures are per variant: with {tested} tested together (Holm), the first must reach {level:.2g} %"
        )
    return sentences


def scenario(assumed: Assumed, n: int, seeds: int, policy: Policy, margin: float) -> Scenario:
    """Return what is to be expected of a variant like `assumed`."""
    of_policy: dict[str, Any] = {
        "n": n,
        "allowed": allowed_losses(n, policy.tolerance),
        "discordance": assumed.discordance,
        "spread": assumed.spread,
        "seeds": seeds,
        "needed": math.ceil(policy.pass_rate * seeds),
        "floor_allowed": allowed_losses(n, policy.floor),
    }
    return Scenario(
        name=assumed.name,
        discordance=assumed.discordance,
        spread=assumed.spread,
        power_these_runs=power(n, assumed.discordance, margin, **_claim("these-runs", assumed, seeds)),
        power_over_trainings=power(
            n, assumed.discordance, margin, **_claim("mean-over-trainings", assumed, seeds)
        )
        if seeds > 1
        else None,
        pass_if_equal=pass_probability(delta=0.0, **of_policy),
        pass_if_worse=pass_probability(
            delta=-2 * margin, **of_policy | {"discordance": max(assumed.discordance, 2 * margin)}
        ),
        needs=tuple(_need(claim, assumed, n, seeds, margin) for claim in CLAIMS),
    )


def _need(claim: PlannedClaim, assumed: Assumed, n: int, seeds: int, margin: float) -> Need:
    impossible = claim == "mean-over-trainings" and seeds < 2
    how = _claim(claim, assumed, seeds)
    of_any_seeds = {key: value for key, value in how.items() if key != "seeds"}
    low, high = (
        None if impossible else examples_needed(end, margin, **how)
        for end in discordance_range(assumed.discordance, assumed.seen or n)
    )
    return Need(
        claim=claim,
        smallest_margin=None if impossible else smallest_margin(n, assumed.discordance, **how),
        examples=None if impossible else examples_needed(assumed.discordance, margin, **how),
        examples_range=None if low is None else (low, high),
        seeds=seeds_needed(n, assumed.discordance, margin, **of_any_seeds),
    )


def _claim(claim: PlannedClaim, assumed: Assumed, seeds: int) -> dict[str, Any]:
    return {"claim": claim, "spread": assumed.spread, "seeds": seeds, "level": float(ALPHA)}
