"""The map of an adapter: kinds of modules down, transformer layers across, one sign a module.

The sign is the share of its rank that a module needs, in eighths. Names of layers and modules are a stranger's:
any architecture's naming works, and no naming can make the map larger than its limits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import median

from gradience.artifacts.audit import AuditReport, LayerAudit

BLOCKS = "▁▂▃▄▅▆▇█"
ABSENT, UNTRAINED, BROKEN = "·", "○", "✗"
MAX_KINDS = 12
"""Most rows of all maps together: the kinds with the most parameters are drawn."""
MAX_MAPS = 2
"""Most stacks that are drawn."""
WIDE = 36
"""Columns that a map of few layers is stretched to, each layer to MAX_CELL at most."""
MAX_CELL = 4
MODULE_TYPES = ("attn", "mlp", "embedding", "other")
MAX_SPAN = 1024
"""Most layers drawn with their gaps; a stack with larger numbers is drawn without gaps."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the map: a sign, and its level 1 … 8 (0 where there is no measure)."""

    sign: str
    level: int = 0


@dataclass(frozen=True, slots=True)
class HeatRow:
    """One kind of module across the layers of its stack."""

    label: str
    cells: tuple[Cell, ...]
    k_median: float | None
    k_largest: int | None
    r: tuple[int, ...]
    """Distinct ranks of its modules, ascending."""


@dataclass(frozen=True, slots=True)
class HeatMap:
    """One stack of layers, such as `model.layers`."""

    stack: str
    indices: tuple[int, ...]
    """Layer index at the left edge of each column."""
    per_column: int
    """Layers in one column: 1, or more where the stack is wider than the screen."""
    most_modules: int
    """Modules behind one sign, at most: where there are several (experts, merged columns), it is their median."""
    cell_width: int
    """Signs that draw one column: more than 1 where there are few layers."""
    rows: tuple[HeatRow, ...]
    hidden: int
    """Kinds of modules that are not drawn, because there are too many."""
    energy: tuple[Cell, ...]
    """Share of Σ‖ΔW‖² of each column, in eighths of the largest; empty where the scale is unknown."""


def heat_maps(report: AuditReport, width: int) -> tuple[list[HeatMap], int]:
    """Maps of the largest stacks, at most `width` columns wide, and how many stacks are left out."""
    stacks: dict[str, list[LayerAudit]] = {}
    for layer in report.layers:
        if layer.layer is not None and layer.layer_index is not None:
            stacks.setdefault(stack_of(layer), []).append(layer)
    largest = sorted(stacks, key=lambda stack: (-len(stacks[stack]), stack))[:MAX_MAPS]
    maps = [_map(stack, stacks[stack], width, MAX_KINDS // len(largest)) for stack in largest]
    return maps, len(stacks) - len(maps)


def outside(report: AuditReport) -> list[LayerAudit]:
    """Modules that belong to no layer, such as `lm_head`."""
    return [layer for layer in report.layers if layer.layer is None or layer.layer_index is None]


def stack_of(layer: LayerAudit) -> str:
    """`model.layers` for `model.layers.7`."""
    return (layer.layer or "").rpartition(".")[0]


def _map(stack: str, layers: Sequence[LayerAudit], width: int, most: int) -> HeatMap:
    indices = _span({layer.layer_index for layer in layers if layer.layer_index is not None})
    per_column = math.ceil(len(indices) / width)
    column = {index: position // per_column for position, index in enumerate(indices)}
    number = math.ceil(len(indices) / per_column)
    kinds: dict[str, list[LayerAudit]] = {}
    for layer in layers:
        kinds.setdefault(layer.family, []).append(layer)
    drawn = _drawn(kinds, most)
    labels = short_labels(drawn)
    shared = Counter(
        (layer.family, column[layer.layer_index or 0]) for layer in layers if layer.family in labels
    )
    return HeatMap(
        stack,
        tuple(indices[::per_column]),
        per_column,
        max(shared.values()),
        max(1, min(MAX_CELL, WIDE // number)),
        tuple(_row(labels[kind], kinds[kind], column, number) for kind in drawn),
        len(kinds) - len(drawn),
        _energy(layers, column, number),
    )


def _drawn(kinds: Mapping[str, Sequence[LayerAudit]], most: int) -> list[str]:
    """The kinds with the most parameters; attention before MLP, else in the order of the file."""
    weights = {kind: sum(layer.params for layer in members) for kind, members in kinds.items()}
    heaviest = sorted(kinds, key=lambda kind: (-weights[kind], kind))[:most]
    kept = [kind for kind in kinds if kind in heaviest]
    return sorted(kept, key=lambda kind: MODULE_TYPES.index(kinds[kind][0].module_type))


def _row(label: str, members: Sequence[LayerAudit], column: Mapping[int, int], number: int) -> HeatRow:
    places: list[list[LayerAudit]] = [[] for _ in range(number)]
    for layer in members:
        places[column[layer.layer_index or 0]].append(layer)
    measured = [k for layer in members if layer.status == "ok" and (k := layer.energy_rank_tau) is not None]
    signs = tuple(cell(place) for place in places)
    typical = median(measured) if measured else None
    ranks = tuple(sorted({layer.r for layer in members}))
    return HeatRow(label, signs, typical, max(measured, default=None), ranks)


def _span(found: set[int]) -> list[int]:
    """Layer indices from first to last, gaps included unless they are absurd."""
    low, high = min(found), max(found)
    return list(range(low, high + 1)) if high - low < MAX_SPAN else sorted(found)


def cell(place: Iterable[LayerAudit]) -> Cell:
    """The sign of one place: the median of k/r where it holds several modules; trouble shows before numbers."""
    layers = list(place)
    if not layers:
        return Cell(ABSENT)
    if any(layer.status in ("nonfinite", "unsupported") for layer in layers):
        return Cell(BROKEN)
    shares = [Fraction(k, layer.r) for layer in layers if (k := layer.energy_rank_tau) is not None]
    if not shares:
        return Cell(UNTRAINED)
    return block(median(shares))


def block(share: float | Fraction) -> Cell:
    """The block for a share in (0, 1]: the first eighth that covers it."""
    level = min(8, max(1, math.ceil(8 * share)))
    return Cell(BLOCKS[level - 1], level)


def _energy(layers: Iterable[LayerAudit], column: dict[int, int], number: int) -> tuple[Cell, ...]:
    sums = [0.0] * number
    known = False
    for layer in layers:
        if layer.fro_norm is not None and layer.layer_index is not None:
            # hypot-style scaling is not needed for a picture, but overflow must not break it.
            sums[column[layer.layer_index]] += min(layer.fro_norm, 1e150) ** 2
            known = True
    top = max(sums, default=0.0)
    if not known or top == 0.0:
        return ()
    return tuple(block(value / top) if value else Cell(ABSENT) for value in sums)


def short_labels(kinds: Sequence[str]) -> dict[str, str]:
    """The shortest ends of dotted names that still differ: `q_proj`, or `attn.c_proj` beside `mlp.c_proj`."""
    labels = {}
    for kind in kinds:
        parts = kind.split(".")
        for length in range(1, len(parts) + 1):
            label = ".".join(parts[-length:])
            rivals = sum(1 for other in kinds if other == label or other.endswith(f".{label}"))
            if rivals == 1:
                break
        labels[kind] = label
    return labels


def ruler(heat: HeatMap) -> str:
    """Layer numbers above the columns, as many as fit without touching; the last column is always numbered."""
    length = len(heat.indices) * heat.cell_width
    last = str(heat.indices[-1])
    last_at = max(0, length - max(len(last), heat.cell_width))
    step = next(step for step in (1, 2, 4, 5, 8, 10, 16, 20, 40) if step * heat.cell_width > len(last))
    text = [" "] * (last_at + len(last))
    for position in range(0, len(heat.indices) - 1, step):
        label, start = str(heat.indices[position]), position * heat.cell_width
        if start + len(label) < last_at:
            text[start : start + len(label)] = label
    text[last_at:] = last
    return "".join(text)
