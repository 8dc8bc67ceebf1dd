"""Tables of modules: a row is a kind of modules or one module, a column is a measure of those in its row."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

from gradience.adapters.keys import family_of, layer_of
from gradience.reports.base.blocks import Block, Column, Inline, Span, Table, View, more, table_of
from gradience.reports.base.numbers import count


class NamedModule(Protocol):
    """A module of an artifact: its name and other fields."""

    @property
    def name(self) -> str: ...


M = TypeVar("M", bound=NamedModule)


ModuleField = tuple[Column, Callable[[Sequence[M]], Inline]]
"""A column of a table of modules, and its cell for one or several modules."""


def measure(
    modules: Iterable[M],
    title: str,
    value: Callable[[M], float | None],
    show: Callable[[float | None], str],
    of: Callable[[list[float]], float] = median,
    drop: int = 0,
) -> ModuleField[M]:
    """Return the column of one figure: `of` the values of those modules that have it; not shown if no module has it."""

    def values(some: Iterable[M]) -> list[float]:
        return [figure for module in some if (figure := value(module)) is not None]

    def cell(some: Sequence[M]) -> str:
        figures = values(some)
        return show(of(figures) if figures else None)

    return Column(title, ">", drop=drop, shown=bool(values(modules))), cell


SHOWN_KINDS = 12
"""Kinds of modules on a brief screen."""
NUMBER: ModuleField[Any] = (Column("", ">"), lambda modules: Span(f"× {count(len(modules))}", "dim"))


def by_kind(
    modules: Iterable[M], weight: Callable[[M], int], most: int | None
) -> tuple[list[tuple[str, list[M]]], int]:
    """Return the heaviest kinds with their modules, in the order of the adapter, and the number of kinds left out."""
    kinds: dict[str, list[M]] = {}
    for module in modules:
        kinds.setdefault(family_of(module.name), []).append(module)
    heaviest = sorted(kinds, key=lambda kind: (-sum(map(weight, kinds[kind])), kind))[:most]
    shown = set(heaviest)
    return [(kind, members) for kind, members in kinds.items() if kind in shown], len(kinds) - len(shown)


@dataclass(frozen=True, slots=True)
class LayerMap(Generic[M]):
    """The layer stack with the most modules: kinds of modules down, layers across."""

    layers: Sequence[int]
    """The first layer of each column."""
    merged: int
    """Layers per column."""
    rows: Sequence[tuple[str, Sequence[Sequence[M]]]]
    """Short names of the kinds, each with its modules in each column."""
    hidden: int
    """Kinds that are left out."""
    outside: Sequence[M]
    """Modules outside the layers of this stack."""


def layer_map(
    modules: Iterable[M], weight: Callable[[M], int], kinds: int, columns: int | None = None
) -> LayerMap[M]:
    """Return the map of the largest stack of layers, limited to the kinds of modules with the most energy.

    columns: maximum number; if there are more layers, neighbors share a column. None: a column for each layer.
    """
    stacks: dict[str, list[tuple[int, M]]] = {}
    outside = []
    for module in modules:
        layer, index = layer_of(module.name)
        if layer is None or index is None:
            outside.append(module)
        else:
            stacks.setdefault(layer.rpartition(".")[0], []).append((index, module))
    largest = min(stacks, key=lambda stack: (-len(stacks[stack]), stack), default="")
    inside = stacks.pop(largest, [])
    outside += [module for stack in stacks.values() for _, module in stack]
    layers = sorted({index for index, _ in inside})
    merged = max(1, math.ceil(len(layers) / (columns or math.inf)))
    column = {index: place // merged for place, index in enumerate(layers)}
    shown, hidden = by_kind([module for _, module in inside], weight, kinds)
    labels = short_labels([kind for kind, _ in shown])
    cells: dict[str, list[list[M]]] = {kind: [[] for _ in layers[::merged]] for kind, _ in shown}
    for index, module in inside:
        if (kind := family_of(module.name)) in cells:
            cells[kind][column[index]].append(module)
    rows = [(labels[kind], of_kind) for kind, of_kind in cells.items()]
    return LayerMap(layers[::merged], merged, rows, hidden, outside)


def module_table(title: str, rows: Iterable[tuple[str, Sequence[M]]], *fields: ModuleField[M]) -> Table:
    """Return one row for each name and its modules."""

    def on_modules(cell: Callable[[Sequence[M]], Inline]) -> Callable[[tuple[str, Sequence[M]]], Inline]:
        return lambda row: cell(row[1])

    name = (Column(title), lambda row: Span(row[0], "name"))
    return table_of(rows, name, *((column, on_modules(cell)) for column, cell in fields))


def kind_blocks(
    modules: Iterable[M], weight: Callable[[M], int], view: View, *fields: ModuleField[M]
) -> list[Block]:
    """Return one row per kind of modules; a brief screen has the heaviest kinds, and the number left out."""
    kinds, hidden = by_kind(modules, weight, SHOWN_KINDS if view.brief else None)
    table = module_table("kind", kinds, NUMBER, *fields)
    return [table, *more(hidden, "more kind of modules", view.rest, "more kinds of modules")]


def short_labels(kinds: Sequence[str]) -> dict[str, str]:
    """Return the shortest endings of dotted names that still differ: `q_proj`, or `attn.c_proj` beside `mlp.c_proj`."""
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
