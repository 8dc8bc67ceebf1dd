"""Adapters that are the same, or nearly: first by their bytes, then by their updates.

Sketches name the candidates (see `sketch`); what is reported was compared exactly, in r-space. Each group has a first
adapter, with which the others were compared: the first of its names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradience.reports.fleet import Copies, CopyKind

SAME = 0.005
"""Relative difference of ΔW up to which two updates are the same: rounding factors to bf16 changes ΔW by 0.3 %."""
NEAR = 0.1
"""Up to which they are near."""
CANDIDATE = 3 * NEAR
"""Distance of sketches, relative to the longer, from which on nothing is compared: 64 numbers estimate a distance to
within a factor of 3, and a pair that is missed is an update of rank one at worst."""


class Sketched(NamedTuple):
    """What copies are recognised by."""

    name: str
    group: tuple[str | None, bool]
    """Base model, and whether it is DoRA: only within a group are adapters compared."""
    identity: tuple[str, float | None]
    """Digest of the weights, and ‖ΔW‖, which tells two scales of the same file apart."""
    sketch: NDArray[np.float32]
    """(64,), or (0,) where there is none."""


Difference = Callable[[str, str], float | None]
"""Exact ‖ΔW_a − ΔW_b‖_F/‖ΔW_a‖_F of two adapters by name; None where they cannot be compared."""


def copies_of(adapters: Sequence[Sketched], difference: Difference) -> tuple[Copies, ...]:
    """Return the groups of copies, those of the same file first, each in the order of `adapters`."""
    files: dict[tuple[str, float | None], list[Sketched]] = {}
    for adapter in adapters:
        files.setdefault(adapter.identity, []).append(adapter)
    same = [
        Copies(kind="same file", paths=tuple(copy.name for copy in group), difference=0.0)
        for group in files.values()
        if len(group) > 1
    ]
    groups: dict[tuple[str | None, bool], list[Sketched]] = {}
    for first, *_ in files.values():
        if len(first.sketch) and not first.group[1]:
            groups.setdefault(first.group, []).append(first)
    alike = [copies for group in groups.values() for copies in _alike(group, difference)]
    return (*same, *sorted(alike, key=lambda copies: (copies.kind != "same update", copies.paths)))


def _alike(adapters: Sequence[Sketched], difference: Difference) -> Iterator[Copies]:
    """Groups of adapters of one base: each adapter that is not in one yet is compared with those behind it."""
    sketches = np.stack([adapter.sketch for adapter in adapters]).astype(np.float64)
    lengths = np.square(sketches).sum(axis=1)
    waiting = np.ones(len(adapters), dtype=bool)
    for first, adapter in enumerate(adapters):
        if not waiting[first]:
            continue
        waiting[: first + 1] = False
        (others,) = np.nonzero(waiting)
        distances = lengths[first] + lengths[others] - 2 * sketches[others] @ sketches[first]
        candidates = others[distances <= CANDIDATE**2 * np.maximum(lengths[others], lengths[first])]
        members: dict[CopyKind, list[tuple[int, float]]] = {"same update": [], "near": []}
        for other in candidates.tolist():
            apart = difference(adapter.name, adapters[other].name)
            if apart is not None and apart <= NEAR:
                members["same update" if apart <= SAME else "near"].append((other, apart))
                waiting[other] = False
        for kind, group in members.items():
            if group:
                names = (adapter.name, *(adapters[other].name for other, _ in group))
                yield Copies(kind=kind, paths=names, difference=max(apart for _, apart in group))
