"""Reasons why a run cannot support a claim, whatever the verdict: plan, examples, controls, probe at ceiling. Pure."""

from collections.abc import Iterable, Sequence
from fractions import Fraction

from gradience.bench.arms.controls import control_of
from gradience.reports.bench import Bench, OfAnArm, Probe, SeedRow, VariantResult, VariantSummary
from gradience.reports.bench_plan import Policy, allowed_losses


def obstacles_of(
    benches: Sequence[Bench], rows: Sequence[SeedRow], variants: Sequence[VariantSummary]
) -> tuple[str, ...]:
    """Return what rules out a grade A, whatever the counts are: no single plan with a result for every
    planned seed (`rows`), a limited confirm split, or controls that are missing or not as expected.
    """
    obstacles = []
    without = [str(row.seed) for row in rows if row.status == "ERROR"]
    if without:
        obstacles.append(f"no complete result for seed {', '.join(without)}")
    elif len({(bench.planned_seeds, bench.plan_digest) for bench in benches}) > 1:
        obstacles.append("the seeds were planned separately, so unwanted seeds may have been left out")
    obstacles += limited(benches)
    controls = [variant for variant in variants if variant.expected is not None]
    for control in controls:
        if control.status in ("PASS", "FAIL") and not control.complete:
            obstacles.append(f"seeds of {control.name} are missing")
        elif control.status != control.expected:
            obstacles.append(f"{control.name} is not as expected")
    if any(bench.guards for bench in benches):
        obstacles.append("guards are tested on these runs, not on the next training")
    if not any(control.expected == "FAIL" for control in controls):
        obstacles.append("no control that must fail was planned")
    return tuple(obstacles)


def limited(benches: Sequence[Bench]) -> list[str]:
    """Return why what was evaluated is not the whole confirm split; nothing if it is."""
    for bench in benches:
        task = bench.config.get("task")
        limit = task.get("eval_samples") if isinstance(task, dict) else None
        evaluated = next((split.n for split in bench.data.splits if split.role == bench.data.eval_role), 0)
        if bench.data.eval_role != "confirm":
            return [f"evaluated on {bench.data.eval_role}"]
        if isinstance(limit, int) and evaluated >= limit:
            return [f"limited to {evaluated:,} examples (task.eval_samples)"]
    return []


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
