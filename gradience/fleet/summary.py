"""Rows -> what holds over all of them: a server's step and slots for each base model, copies, and failures. Pure.

Of a row only what is needed here is kept, so that ten thousand of them take a few megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from gradience.adapters.locate import natural_key
from gradience.fleet.copies import Difference, Sketched, copies_of
from gradience.ranks import max_lora_rank_step, percentile
from gradience.reports.fleet import BaseGroup, Copies, Failure, FleetRow, Forcing, Step
from gradience.runtimes.slots import slot_bytes, steps_below

FORCING = 1000
"""Adapters above the next step that a report lists for one base; it counts all of them."""

PredictedKl = Callable[[str, str, int], float | None]
"""Predicted KL of an adapter, by its name and the digest of its weights, at a rank; None without a calibration."""


class _Served(NamedTuple):
    """An adapter that a server would load."""

    name: str
    sha256: str
    bytes: int
    rank: int
    width: float
    lost_at: Mapping[int, float]


@dataclass
class Tally:
    """What is kept of the rows while they come, in whatever order."""

    count: int = 0
    incomplete: int = 0
    untrained: int = 0
    bytes: int = 0
    params: int = 0
    _served: dict[str | None, list[_Served]] = field(default_factory=dict)
    _sketched: list[Sketched] = field(default_factory=list)
    _failures: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

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
        sketch = np.array(row.sketch, dtype=np.float32)
        identity = (row.sha256 or "", row.fro_norm)
        self._sketched.append(Sketched(row.path, (row.base_model, row.use_dora), identity, sketch))
        if row.rank is not None and row.width is not None:
            served = _Served(
                row.path, row.sha256 or "", row.bytes or 0, row.rank, row.width, row.lost_energy_at
            )
            self._served.setdefault(row.base_model, []).append(served)

    def copies(self, difference: Difference) -> tuple[Copies, ...]:
        """Return the groups of adapters that are the same or nearly."""
        return copies_of(sorted(self._sketched, key=lambda item: natural_key(item.name)), difference)

    def failures(self) -> tuple[Failure, ...]:
        """Return the reasons of failures, the most frequent first."""
        ordered = sorted(self._failures.items(), key=lambda item: (-len(item[1]), item[0]))
        return tuple(
            Failure(code=code, adapters=len(rows), first=first[0], message=first[1])
            for code, rows in ordered
            for first in [min(rows, key=lambda row: natural_key(row[0]))]
        )

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(map(len, self._failures.values()))

    @property
    def digests(self) -> frozenset[str]:
        """Digests of the weights of all that were measured."""
        return frozenset(adapter.identity[0] for adapter in self._sketched)

    def bases(self, predicted: PredictedKl) -> tuple[BaseGroup, ...]:
        """Return each base model's adapters, the base with the most first."""
        ordered = sorted(self._served.items(), key=lambda item: (-len(item[1]), item[0] or ""))
        return tuple(_group(base, adapters, predicted) for base, adapters in ordered)


def _group(base: str | None, adapters: Sequence[_Served], predicted: PredictedKl) -> BaseGroup:
    largest = max(adapter.rank for adapter in adapters)
    width = max(adapter.width for adapter in adapters)
    step = max_lora_rank_step(largest)
    lower = steps_below(largest)
    return BaseGroup(
        base_model=base,
        adapters=len(adapters),
        bytes=sum(adapter.bytes for adapter in adapters),
        largest_rank=largest,
        max_lora_rank=step,
        slot_bytes=None if step is None else slot_bytes(width, step),
        steps=tuple(_step(rank, slot_bytes(width, rank), adapters) for rank in lower),
        forcing=_forcing(adapters, lower[0], predicted) if lower else (),
    )


def _step(rank: int, size: int, adapters: Iterable[_Served]) -> Step:
    above = [adapter for adapter in adapters if adapter.rank > rank]
    lost = [adapter.lost_at[rank] for adapter in above if rank in adapter.lost_at]
    return Step(
        max_lora_rank=rank,
        slot_bytes=size,
        squeezed=len(above),
        lost_energy_median=float(percentile(lost, 50)) if lost else None,
        lost_energy_max=max(lost, default=None),
    )


def _forcing(adapters: Iterable[_Served], rank: int, predicted: PredictedKl) -> tuple[Forcing, ...]:
    above = [adapter for adapter in adapters if adapter.rank > rank]
    above.sort(key=lambda adapter: (-adapter.lost_at.get(rank, math.inf), natural_key(adapter.name)))
    return tuple(
        Forcing(
            path=adapter.name,
            rank=adapter.rank,
            lost_energy=adapter.lost_at.get(rank),
            predicted_kl=predicted(adapter.name, adapter.sha256, rank),
        )
        for adapter in above[:FORCING]
    )
