"""Can what was run carry a claim at all, PASS or FAIL? Conditions, controls, the probe's ceiling. Pure.

They say nothing about the verdict. docs/bench.md defines the conditions in words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction

from gradience.bench.arms.registry import control_of
from gradience.reports.bench import (
    MIN_SEEDS,
    Bench,
    Condition,
    OfAnArm,
    Probe,
    SeedRow,
    VariantResult,
    VariantSummary,
)
from gradience.reports.bench_plan import Policy, allowed_losses


def conditions_of(
    benches: Sequence[Bench], rows: Sequence[SeedRow], variants: Sequence[VariantSummary]
) -> tuple[Condition, ...]:
    """Check the conditions over the planned seeds (`rows`); `benches` are those with results."""
    checks = {
        "protocol": _protocol(benches, rows),
        "seeds": (len(rows) >= MIN_SEEDS, f"{len(rows)} planned ({MIN_SEEDS} or more needed)"),
        "confirm": confirm_untouched(benches),
        "controls": _controls(variants),
    }
    return tuple(
        Condition.model_validate({"name": name, "met": met, "why": why})
        for name, (met, why) in checks.items()
    )


def _protocol(benches: Sequence[Bench], rows: Sequence[SeedRow]) -> tuple[bool, str]:
    """One plan for all seeds, and a result for each of them."""
    without = [str(row.seed) for row in rows if row.status == "ERROR"]
    if without:
        return False, f"no complete result for seed {', '.join(without)}"
    if len({(bench.planned_seeds, bench.plan_digest) for bench in benches}) > 1:
        return False, "the seeds were planned separately"
    return True, "one plan, written before training, and a result for every seed"


def confirm_untouched(benches: Sequence[Bench]) -> tuple[bool, str]:
    """Return whether all examples of the confirm split were evaluated, and what was looked at."""
    for bench in benches:
        task = bench.config.get("task")
        limit = task.get("eval_samples") if isinstance(task, dict) else None
        evaluated = next((split.n for split in bench.data.splits if split.role == bench.data.eval_role), 0)
        if bench.data.eval_role != "confirm":
            return False, f"evaluated on {bench.data.eval_role}"
        if isinstance(limit, int) and evaluated >= limit:
            return False, f"limited to {evaluated:,} examples (task.eval_samples)"
    return True, "all examples of the confirm split"


def _controls(variants: Sequence[VariantSummary]) -> tuple[bool, str]:
    """A control that must fail is planned, and every control came out as expected."""
    expected, wrong = {}, []
    for variant in variants:
        if variant.expected is None:
            continue
        expected[variant.name] = variant.expected
        if variant.status in ("PASS", "FAIL") and not variant.complete:
            wrong.append(f"seeds of {variant.name} are missing")
        elif variant.status != variant.expected:
            wrong.append(f"{variant.name} is {variant.status} but must be {variant.expected}")
    if wrong:
        return False, ", ".join(wrong)
    if "FAIL" not in expected.values():
        return False, "no control that must fail was planned"
    return True, f"as expected: {', '.join(expected)}"


# ---------------------------------------------------------------- controls


def seed_notes(probe: Probe | None, variants: Iterable[VariantResult], policy: Policy) -> tuple[str, ...]:
    """Return the notes on the controls and the probe of one seed."""
    notes = [] if probe is None else _ceiling_notes([(probe.correct, probe.n)], policy)
    for result in variants:
        if result.as_expected is not False:
            continue
        meaning = otherwise(result)
        if result.expected == "FAIL":
            notes.append(
                f"{result.name} must fail but passes on this seed. If it passes on all seeds, {meaning}"
            )
        else:
            notes.append(f"{result.name} must pass but fails: {meaning}")
    return tuple(notes)


def aggregate_notes(
    rows: Sequence[SeedRow], variants: Iterable[VariantSummary], policy: Policy
) -> tuple[str, ...]:
    """Return the notes on the controls and the probe over all seeds."""
    notes = _ceiling_notes(
        [(row.correct, row.n) for row in rows if row.correct is not None and row.n], policy
    )
    for result in variants:
        if result.expected is None or result.status == result.expected:
            continue
        if result.expected == "PASS" and result.complete:
            notes.append(f"{result.name} must pass but fails: {otherwise(result)}")
        elif result.status == "PASS" and result.planned == 1:
            notes.append(f"{result.name} must fail but passes on the only seed")
    return tuple(notes)


def blind_controls(variants: Iterable[VariantSummary]) -> list[VariantSummary]:
    """Return the controls that must fail and pass on each of several seeds."""
    return [
        result
        for result in variants
        if result.expected == "FAIL" and result.status == "PASS" and result.passing == result.planned > 1
    ]


def otherwise(result: OfAnArm) -> str:
    """Return the meaning of a control that does not have its expected status."""
    control = control_of(result.name)
    assert control is not None
    return control.otherwise


def _ceiling_notes(scores: Sequence[tuple[int, int]], policy: Policy) -> list[str]:
    """Warn where a probe has so few examples wrong that little is left to tell adapters apart by.

    scores: (correct, examples) of each seed.
    """
    high = [(correct, n) for correct, n in scores if n and at_ceiling(correct, n, policy.tolerance)]
    if not high:
        return []
    correct, n = high[0]
    where = "" if len(scores) == 1 else f" on {len(high)} of {len(scores)} seeds"
    return [
        f"warning: the probe is at its ceiling{where} ({correct:,} / {n:,} correct): easy examples do not separate"
        " adapters, so use harder ones"
    ]


def at_ceiling(correct: int, n: int, tolerance: Fraction) -> bool:
    """Return whether no more of `n` examples are wrong than a variant may lose, net.

    >>> at_ceiling(195, 200, Fraction(1, 40)), at_ceiling(194, 200, Fraction(1, 40))
    (True, False)
    """
    return n - correct <= allowed_losses(n, tolerance)
