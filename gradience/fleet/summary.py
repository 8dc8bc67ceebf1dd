"""Rows -> what holds over all of them: a server's step and slots for each base model, and failures."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from gradience.adapters.locate import natural_key
from gradience.ranks import max_lora_rank_step, percentile
from gradience.reports.fleet import BaseGroup, Failure, FleetRow, NotServed, Oversized, Step
from gradience.runtimes.verdict import slot_bytes, steps_below

FORCING = 1000
"""Adapters above the target that a report lists for one base; it counts all of them."""


def failures(rows: Iterable[FleetRow]) -> tuple[Failure, ...]:
    """Return the reasons of failures, the most frequent first."""
    failed = _grouped((row.error or "", row) for row in rows if row.status == "failed")
    return tuple(
        Failure(code=code, adapters=len(group), first=group[0].path, message=group[0].message or "")
        for code, group in failed
    )


def not_served(rows: Iterable[FleetRow]) -> tuple[NotServed, ...]:
    """Return the reasons for which the engine cannot load adapters, the most frequent first."""
    refused = _grouped((row.not_served, row) for row in rows if row.not_served)
    return tuple(
        NotServed(reason=reason, adapters=len(group), first=group[0].path) for reason, group in refused
    )


def bases(rows: Iterable[FleetRow], max_error: float, limit: int | None = None) -> tuple[BaseGroup, ...]:
    """Return the adapters that a server would load of each base model, the base with the most first.

    limit: the host's maximum rank.
    """
    served = (row for row in rows if row.rank and row.width is not None and not row.not_served)
    groups = _grouped((row.base_model or "", row) for row in served)
    return tuple(_group(base or None, group, max_error, limit) for base, group in groups)


def _grouped(keyed: Iterable[tuple[str, FleetRow]]) -> list[tuple[str, list[FleetRow]]]:
    """Return rows by key, the largest group first, each in the order of its names."""
    groups: dict[str, list[FleetRow]] = defaultdict(list)
    for key, row in keyed:
        groups[key].append(row)
    for group in groups.values():
        group.sort(key=lambda row: natural_key(row.path))
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _group(base: str | None, adapters: Sequence[FleetRow], max_error: float, limit: int | None) -> BaseGroup:
    ranks = {row.path: row.rank or 0 for row in adapters}
    largest = max(ranks.values())
    width = max(row.width or 0.0 for row in adapters)
    top = max_lora_rank_step(largest)
    steps, target = [], None
    within = limit is not None
    for rank in steps_below(largest):
        above = [row for row in adapters if ranks[row.path] > rank]
        lost = [row.lost_energy_at[rank] for row in above if rank in row.lost_energy_at]
        steps.append(
            Step(
                max_lora_rank=rank,
                slot_bytes=slot_bytes(width, rank),
                truncated=len(above),
                lost_energy_median=float(percentile(lost, 50)) if lost else None,
                lost_energy_max=max(lost, default=None),
            )
        )
        if limit is None and len(lost) == len(above) and max(lost) <= max_error**2:
            target, within = rank, True
    if limit is not None:
        target = limit if largest > limit else None
    elif target is None and steps:
        target = steps[0].max_lora_rank
    higher = [] if target is None else [row for row in adapters if ranks[row.path] > target]
    higher.sort(key=lambda row: -row.lost_energy_at.get(target or 0, math.inf))  # else by name
    return BaseGroup(
        base_model=base,
        adapters=len(adapters),
        bytes=sum(row.bytes or 0 for row in adapters),
        largest_rank=largest,
        max_lora_rank=top,
        slot_bytes=None if top is None else slot_bytes(width, top),
        steps=tuple(steps),
        target=target,
        recommended=within and target is not None,
        above=len(higher),
        forcing=tuple(
            Oversized(path=row.path, rank=ranks[row.path], lost_energy=row.lost_energy_at.get(target or 0))
            for row in higher[:FORCING]
        ),
    )
