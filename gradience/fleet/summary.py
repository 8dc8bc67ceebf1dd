"""Rows -> what holds over all of them: a server's step and slots for each base model, and failures.

Of a row only what is needed here is kept, so that ten thousand of them take a few megabytes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gradience.adapters.locate import natural_key
from gradience.ranks import max_lora_rank_step, percentile
from gradience.reports.fleet import BaseGroup, Failure, FleetRow, NotServed, Oversized, Step
from gradience.runtimes.verdict import slot_bytes, steps_below

FORCING = 1000
"""Adapters above the target that a report lists for one base; it counts all of them."""


class _Served(NamedTuple):
    """An adapter that a server would load."""

    name: str
    bytes: int
    rank: int
    width: float
    lost_at: Mapping[int, float]


@dataclass
class Tally:
    """Running totals of the rows, which may arrive in any order."""

    count: int = 0
    incomplete: int = 0
    untrained: int = 0
    bytes: int = 0
    params: int = 0
    _served: dict[str | None, list[_Served]] = field(default_factory=dict)
    _failures: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    _not_served: dict[str, list[str]] = field(default_factory=dict)

    def add(self, row: FleetRow) -> None:
        """Count a row."""
        self.count += 1
        if row.status == "failed":
            self._failures.setdefault(row.error or "", []).append((row.path, row.message or ""))
            return
        self.incomplete += row.status == "incomplete"
        self.untrained += row.status == "untrained"
        self.bytes += row.bytes or 0
        self.params += row.params
        if row.not_served:
            self._not_served.setdefault(row.not_served, []).append(row.path)
        elif row.rank is not None and row.width is not None:
            served = _Served(row.path, row.bytes or 0, row.rank, row.width, row.lost_energy_at)
            self._served.setdefault(row.base_model, []).append(served)

    def failures(self) -> tuple[Failure, ...]:
        """Return the reasons of failures, the most frequent first."""
        ordered = sorted(self._failures.items(), key=lambda item: (-len(item[1]), item[0]))
        return tuple(
            Failure(code=code, adapters=len(rows), first=first[0], message=first[1])
            for code, rows in ordered
            for first in [min(rows, key=lambda row: natural_key(row[0]))]
        )

    def not_served(self) -> tuple[NotServed, ...]:
        """Return the reasons for which the engine cannot load adapters, the most frequent first."""
        ordered = sorted(self._not_served.items(), key=lambda item: (-len(item[1]), item[0]))
        return tuple(
            NotServed(reason=reason, adapters=len(names), first=min(names, key=natural_key))
            for reason, names in ordered
        )

    @property
    def failed(self) -> int:
        """Number of adapters that failed."""
        return sum(map(len, self._failures.values()))

    def bases(self, max_error: float, limit: int | None = None) -> tuple[BaseGroup, ...]:
        """Return each base model's adapters, the base with the most first. limit: the host's maximum rank."""
        ordered = sorted(self._served.items(), key=lambda item: (-len(item[1]), item[0] or ""))
        return tuple(_group(base, adapters, max_error, limit) for base, adapters in ordered)


def _group(
    base: str | None,
    adapters: Sequence[_Served],
    max_error: float,
    limit: int | None,
) -> BaseGroup:
    largest = max(adapter.rank for adapter in adapters)
    width = max(adapter.width for adapter in adapters)
    top = max_lora_rank_step(largest)
    steps, target = [], None
    within = limit is not None
    for rank in steps_below(largest):
        above = [adapter for adapter in adapters if adapter.rank > rank]
        lost = [adapter.lost_at[rank] for adapter in above if rank in adapter.lost_at]
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
    higher = [] if target is None else [adapter for adapter in adapters if adapter.rank > target]
    higher.sort(key=lambda adapter: (-adapter.lost_at.get(target or 0, math.inf), natural_key(adapter.name)))
    return BaseGroup(
        base_model=base,
        adapters=len(adapters),
        bytes=sum(adapter.bytes for adapter in adapters),
        largest_rank=largest,
        max_lora_rank=top,
        slot_bytes=None if top is None else slot_bytes(width, top),
        steps=tuple(steps),
        target=target,
        recommended=within and target is not None,
        above=len(higher),
        forcing=tuple(
            Oversized(path=adapter.name, rank=adapter.rank, lost_energy=adapter.lost_at.get(target or 0))
            for adapter in higher[:FORCING]
        ),
    )
