"""Whether what was run can carry a claim at all, PASS or FAIL, condition by condition. Pure.

It says nothing about the verdict. docs/bench.md defines it in words.
"""

from __future__ import annotations

from collections.abc import Sequence

from gradience.bench.arms.registry import control_of
from gradience.reports.bench import Bench
from gradience.reports.bench_aggregate import Condition, SeedRow, VariantSummary

MIN_SEEDS = 3


def conditions_of(
    benches: Sequence[Bench], rows: Sequence[SeedRow], variants: Sequence[VariantSummary]
) -> tuple[Condition, ...]:
    """Check the conditions over the planned seeds (`rows`), of which `benches` have results."""
    return (
        _condition("protocol", *_protocol(benches, rows)),
        _condition("seeds", len(rows) >= MIN_SEEDS, f"{len(rows)} planned; {MIN_SEEDS} or more are needed"),
        _condition("confirm", *confirm_untouched(benches)),
        _condition("controls", *_controls(variants)),
    )


def _condition(name: str, met: bool, why: str) -> Condition:
    return Condition.model_validate({"name": name, "met": met, "why": why})


def _protocol(benches: Sequence[Bench], rows: Sequence[SeedRow]) -> tuple[bool, str]:
    """One plan for all seeds, and a result for each of them."""
    without = [str(row.seed) for row in rows if row.status == "ERROR"]
    if without:
        return False, f"no complete result for seed {', '.join(without)}"
    if (
        len({bench.planned_seeds for bench in benches}) > 1
        or len({bench.plan_digest for bench in benches}) > 1
    ):
        return False, "the seeds were planned one by one"
    return True, "one plan, written first, and a result for every seed of it"


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
    """A control that must fail is there, and each of which something is expected has come to it."""
    expected = [
        (variant, control.expected)
        for variant in variants
        if (control := control_of(variant.name)) is not None and control.expected is not None
    ]
    wrong = [why for variant, status in expected if (why := _not_shown(variant, status))]
    if wrong:
        return False, ", ".join(wrong)
    if all(status != "FAIL" for _, status in expected):
        return False, "no control that must fail was planned"
    return True, f"as expected: {', '.join(variant.name for variant, _ in expected)}"


def _not_shown(control: VariantSummary, expected: str) -> str:
    """Why a control has not come to what is expected of it; empty where it has."""
    if control.status in ("PASS", "FAIL") and not control.complete:
        return f"seeds of {control.name} are missing"
    return "" if control.status == expected else f"{control.name} is {control.status} and must be {expected}"
