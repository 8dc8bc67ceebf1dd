"""Could the test have seen a loss? What controls and the probe's score say about the examples themselves. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from gradience.bench.arms.registry import control_of
from gradience.reports.bench import Probe, VariantResult
from gradience.reports.bench_aggregate import SeedRow, VariantSummary
from gradience.reports.bench_plan import Policy, allowed_losses


def as_expected(result: str, status: str) -> bool | None:
    """Return whether a control's status is the expected one; None where nothing is expected, or nothing is known.

    >>> as_expected("head_only", "PASS"), as_expected("aa", "PASS"), as_expected("aa", "SKIPPED")
    (False, True, None)
    """
    control = control_of(result)
    if control is None or control.expected is None or status not in ("PASS", "FAIL"):
        return None
    return status == control.expected


def seed_notes(probe: Probe | None, variants: Iterable[VariantResult], policy: Policy) -> tuple[str, ...]:
    """Return the notes on the controls and the probe of one seed."""
    notes = [] if probe is None else ceiling_notes([(probe.correct, probe.n)], policy)
    for result in variants:
        control = control_of(result.name)
        if control is None or as_expected(result.name, result.status) is not False:
            continue
        if control.expected == "FAIL":
            notes.append(
                f"{result.name} must fail, and passes on this seed: where it does on all seeds, {control.otherwise}"
            )
        else:
            notes.append(f"{result.name} must pass, and does not: {control.otherwise}")
    return tuple(notes)


def aggregate_notes(
    rows: Sequence[SeedRow], variants: Iterable[VariantSummary], policy: Policy
) -> tuple[str, ...]:
    """Return the notes on the controls and the probe over all seeds."""
    scores = [(row.correct, row.n) for row in rows if row.correct is not None and row.n]
    notes = ceiling_notes(scores, policy)
    for result in variants:
        control = control_of(result.name)
        if control is None or control.expected is None or result.status == control.expected:
            continue
        if control.expected == "PASS" and result.complete:
            notes.append(f"{result.name} must pass, and does not: {control.otherwise}")
        elif result.status == "PASS" and result.planned == 1:
            notes.append(f"{result.name} must fail, and passes on the one seed there is")
    return tuple(notes)


def blind_controls(variants: Iterable[VariantSummary]) -> list[VariantSummary]:
    """Return the controls that must fail and pass on each of several seeds."""
    return [
        result
        for result in variants
        if (control := control_of(result.name)) is not None
        and control.expected == "FAIL"
        and result.status == "PASS"
        and result.passing == result.planned > 1
    ]


def cannot_tell(variants: Iterable[VariantSummary]) -> tuple[str, ...]:
    """Return why the run is INCONCLUSIVE: its blind controls; else nothing."""
    return tuple(
        f"{result.name}, which must fail, passes on all {result.planned} seeds: {control.otherwise}"
        for result in blind_controls(variants)
        if (control := control_of(result.name)) is not None
    )


def ceiling_notes(scores: Sequence[tuple[int, int]], policy: Policy) -> list[str]:
    """Warn where a probe has so few examples wrong that little is left to tell adapters apart by.

    scores: (correct, examples) of each seed. At the ceiling is who has no more wrong than a variant may lose.
    """
    high = [(correct, n) for correct, n in scores if n and at_ceiling(correct, n, policy.tolerance)]
    if not high:
        return []
    correct, n = high[0]
    where = "" if len(scores) == 1 else f" on {len(high)} of {len(scores)} seeds"
    return [
        f"warning: the probe is at its ceiling{where} ({correct:,} / {n:,} correct): worse adapters have easy examples"
        " correct as well; harder ones tell more"
    ]


def at_ceiling(correct: int, n: int, tolerance: Fraction) -> bool:
    """Return whether no more of `n` examples are wrong than a variant may lose, net.

    >>> at_ceiling(195, 200, Fraction(1, 40)), at_ceiling(194, 200, Fraction(1, 40))
    (True, False)
    """
    return n - correct <= allowed_losses(n, tolerance)
