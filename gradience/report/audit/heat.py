"""The map of an adapter: kinds of modules down, transformer layers across, one sign a module.

The sign is the share of its rank that a module needs, in eighths. Names of layers and modules are a stranger's:
any architecture's naming works, and no naming can make the map larger than its limits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from statistics import median
from typing import NamedTuple

from gradience.adapters.families import MODULE_TYPES
from gradience.reports.audit import AuditReport, LayerAudit
from gradience.reports.base.blocks import HeatMap, HeatRow, Inline, Role, Span
from gradience.reports.base.charts import BLOCKS
from gradience.reports.base.modules import by_kind
from gradience.reports.base.numbers import number_range, trimmed

HEAT: tuple[Role, ...] = ("heat1", "heat2", "heat3", "heat4", "heat5", "heat6", "heat7", "heat8")
ABSENT, UNTRAINED, BROKEN = Span("·", "dim"), Span("○", "dim"), Span("✗", "dim")
SIGN_WORDS = {ABSENT: "none", UNTRAINED: "untrained", BROKEN: "not measured"}
MAX_KINDS = 12
"""Most rows of all maps together: the kinds with the most parameters are drawn."""
MAX_MAPS = 2
"""Most stacks that are drawn."""
MAX_SPAN = 1024
"""Most layers drawn with their gaps; a stack with larger numbers is drawn without gaps."""


class LayerMap(NamedTuple):
    """The map of one stack of layers, such as `model.layers`, and what a reader must know of it."""

    heat: HeatMap
    per_column: int
    """Layers in one column: 1, or more where the stack is wider than the screen."""
    most_modules: int
    """Modules behind one sign, at most: where there are several (experts, merged columns), it is their median."""
    hidden: int
    """Kinds of modules that are not drawn, because there are too many."""


def layer_maps(report: AuditReport, width: int) -> tuple[list[LayerMap], int]:
    """Maps of the largest stacks, at most `width` columns wide, and how many stacks are left out."""
    stacks: dict[str, list[LayerAudit]] = {}
    for layer in report.layers:
        if layer.layer is not None and layer.layer_index is not None:
            stacks.setdefault(stack_of(layer), []).append(layer)
    largest = sorted(stacks, key=lambda stack: (-len(stacks[stack]), stack))[:MAX_MAPS]
    uniform = len({layer.r for layer in report.layers}) == 1
    maps = []
    for stack in largest:
        title = Span(stack, "name") if len(largest) > 1 else "layer"
        maps.append(_map(title, stacks[stack], width, MAX_KINDS // len(largest), uniform=uniform))
    return maps, len(stacks) - len(maps)


def outside(report: AuditReport) -> list[LayerAudit]:
    """Modules that belong to no layer, such as `lm_head`."""
    return [layer for layer in report.layers if layer.layer is None or layer.layer_index is None]


def stack_of(layer: LayerAudit) -> str:
    """`model.layers` for `model.layers.7`."""
    return (layer.layer or "").rpartition(".")[0]


def _map(title: Inline, layers: Sequence[LayerAudit], width: int, most: int, *, uniform: bool) -> LayerMap:
    """The map of one stack. uniform: all modules have the same rank, so that it need not be said in each row."""
    indices = _span({layer.layer_index for layer in layers if layer.layer_index is not None})
    per_column = math.ceil(len(indices) / width)
    column = {index: position // per_column for position, index in enumerate(indices)}
    number = math.ceil(len(indices) / per_column)
    kinds, hidden = by_kind(layers, lambda layer: layer.params, most)
    kinds.sort(key=lambda kind: MODULE_TYPES.index(kind[1][0].module_type))  # attention before MLP
    labels = short_labels([kind for kind, _ in kinds])
    shared = Counter(
        (layer.family, column[layer.layer_index or 0]) for layer in layers if layer.family in labels
    )
    rows = [_row(labels[kind], members, column, number, uniform=uniform) for kind, members in kinds]
    energy = _energy(layers, column, number)
    rows += [HeatRow(Span("energy ‖ΔW‖²", "dim"), energy)] if energy else []
    heat = HeatMap(title, indices[::per_column], ("median", "max"), rows)
    return LayerMap(heat, per_column, max(shared.values()), hidden)


def _row(
    label: str, members: Sequence[LayerAudit], column: Mapping[int, int], number: int, *, uniform: bool
) -> HeatRow:
    """One kind of module across the layers, with the median and the largest of its energy ranks."""
    places: list[list[LayerAudit]] = [[] for _ in range(number)]
    for layer in members:
        places[column[layer.layer_index or 0]].append(layer)
    measured = [k for layer in members if layer.status == "ok" and (k := layer.energy_rank_tau) is not None]
    rank = "" if uniform else f" of {number_range(layer.r for layer in members)}"
    figures = (
        trimmed(median(measured) if measured else None),
        f"{trimmed(max(measured, default=None))}{rank}",
    )
    return HeatRow(Span(label, "name"), [cell(place) for place in places], figures)


def _span(numbers: set[int]) -> list[int]:
    """Layer indices from first to last, gaps included unless they are absurd."""
    low, high = min(numbers), max(numbers)
    return list(range(low, high + 1)) if high - low < MAX_SPAN else sorted(numbers)


def cell(place: Iterable[LayerAudit]) -> Span:
    """The sign of one place: the median of k/r where it holds several modules; trouble shows before numbers."""
    layers = list(place)
    if not layers:
        return ABSENT
    if any(layer.status in ("nonfinite", "unsupported") for layer in layers):
        return BROKEN
    shares = [Fraction(k, layer.r) for layer in layers if (k := layer.energy_rank_tau) is not None]
    if not shares:
        return UNTRAINED
    return block(median(shares))


def block(share: float | Fraction) -> Span:
    """The block for a share in (0, 1]: the first eighth that covers it."""
    level = min(8, max(1, math.ceil(8 * share)))
    return Span(BLOCKS[level - 1], HEAT[level - 1])


def _energy(layers: Iterable[LayerAudit], column: dict[int, int], number: int) -> tuple[Span, ...]:
    """Share of Σ‖ΔW‖² of each column, in eighths of the largest; empty where the scale is unknown."""
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
    return tuple(Span(block(value / top).text, "dim") if value else ABSENT for value in sums)


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
