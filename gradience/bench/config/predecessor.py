"""Files of the public predecessor (github.com/johntnanney/gradience): recognised, and said what they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradience.config_errors import MISSING, value_at
from gradience.errors import InputError

MARKS = ("bench_version", "compression.acc_tolerance", "compression.variants_to_test")
"""Keys that stand in its configs and in nobody else's."""


def is_predecessors(values: Mapping[str, Any]) -> bool:
    """Return whether a config was written for the predecessor."""
    return any(value_at(values, mark, MISSING) is not MISSING for mark in MARKS)


def predecessor_notes(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the reader of such a config must know; nothing for one of ours."""
    if not is_predecessors(values):
        return ()
    return (
        "a config of the original Gradience, its keys renamed: its splits, seeding and α at smaller ranks were"
        " different, so its numbers may not be reproduced",
    )


def refuse_policy_file(values: Mapping[str, Any], path: str) -> None:
    """Raise InputError (`config-value`) for one of its policy files: thresholds and advice, and nothing to run."""
    criteria = values.get("criteria")
    if "policy_version" not in values or not isinstance(criteria, Mapping):
        return
    rate, worst = criteria.get("pass_rate_min"), criteria.get("worst_delta_min")
    floor = -worst if isinstance(worst, int | float) else worst
    raise InputError(
        f"{path}: a policy file of the original Gradience, not a config: it contains thresholds and nothing to run",
        code="config-value",
        hint=f"write its thresholds into a config: `policy: {{pass_rate: {rate}, tolerance: {floor}, floor: {floor}}}`",
    )
