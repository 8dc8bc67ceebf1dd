"""Could the test have seen a loss? What controls and the probe's score say about the questions themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from gradience.artifacts.bench import Probe, VariantResult
from gradience.artifacts.bench_aggregate import SeedRow, VariantSummary
from gradience.artifacts.bench_plan import Policy
from gradience.artifacts.controls import CANNOT_TELL, EXPECTED, as_expected, passes_and_must_fail
from gradience.bench.verdict.policy import allowed_losses


def seed_notes(probe: Probe | None, variants: Iterable[VariantResult], policy: Policy) -> tuple[str, ...]:
    """What is said beside the verdicts of one seed."""
    notes = [] if probe is None else ceiling_notes([(probe.correct, probe.n)], policy)
    for control in variants:
        if control.arm != "control":
            continue
        if passes_and_must_fail(control.name, control.status):
            notes.append(
                f"{control.name} must fail, and passes on this seed: where it does on all seeds, {CANNOT_TELL}"
            )
        elif as_expected(control.name, control.status) is False:
            notes.append(_noisy(control.name))
    return tuple(notes)


def aggregate_notes(
    rows: Sequence[SeedRow], variants: Iterable[VariantSummary], policy: Policy
) -> tuple[str, ...]:
    """What is said beside the verdicts over all seeds."""
    scores = [(row.correct, row.n) for row in rows if row.correct is not None and row.n]
    notes = ceiling_notes(scores, policy)
    for control in variants:
        if control.arm != "control":
            continue
        if control.planned == 1 and passes_and_must_fail(control.name, control.status):
            notes.append(f"{control.name} must fail, and passes on the one seed there is")
        elif control.complete and EXPECTED.get(control.name) == "PASS" != control.status:
            notes.append(_noisy(control.name))
    return tuple(notes)


def cannot_tell(variants: Iterable[VariantSummary]) -> tuple[str, ...]:
    """Why the whole run is INCONCLUSIVE: controls that must fail and pass on each of several seeds; else nothing."""
    return tuple(
        f"{control.name}, which must fail, passes on all {control.planned} seeds: {CANNOT_TELL}"
        for control in variants
        if control.arm == "control"
        and passes_and_must_fail(control.name, control.status)
        and control.passing == control.planned > 1
    )


def ceiling_notes(scores: Sequence[tuple[int, int]], policy: Policy) -> list[str]:
    """A warning where a probe has so few questions wrong that little is left to tell adapters apart by.

    scores: (right, questions) of each seed. At the ceiling is who has no more wrong than a variant may lose.
    """
    high = [(right, n) for right, n in scores if n and at_ceiling(right, n, policy.tolerance)]
    if not high:
        return []
    right, n = high[0]
    where = "" if len(scores) == 1 else f" on {len(high)} of {len(scores)} seeds"
    return [
        f"warning: the probe is at its ceiling{where} ({right:,} of {n:,} right): easy questions are answered by worse"
        " adapters as well; harder ones tell more"
    ]


def at_ceiling(right: int, n: int, tolerance: Fraction) -> bool:
    """Whether no more of `n` questions are wrong than a variant may lose, net.

    >>> at_ceiling(195, 200, Fraction(1, 40)), at_ceiling(194, 200, Fraction(1, 40))
    (True, False)
    """
    return n - right <= allowed_losses(n, tolerance)


def _noisy(name: str) -> str:
    return (
        f"{name} must pass, and does not: the same update in other factors changes more answers than a variant may"
        " lose, so rounding alone decides here"
    )
