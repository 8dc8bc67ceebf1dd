"""Tables of modules: a row is a kind of modules or one module, a column is a measure of those in its row."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Generic, Protocol, TypeVar

from gradience.adapters.families import family_of
from gradience.reports.base.blocks import Column, Inline, Span, Table
from gradience.reports.base.numbers import count


class NamedModule(Protocol):
    """A module of an artifact: its name and other fields."""

    @property
    def name(self) -> str: ...


M = TypeVar("M", bound=NamedModule)


@dataclass(frozen=True, slots=True)
class Measure(Generic[M]):
    """A column of a table of modules."""

    column: Column
    of: Callable[[Sequence[M]], Inline]
    """Return the cell for one or several modules."""
    applies: Callable[[Sequence[M]], bool] = lambda modules: True
    """True if the measure exists for these modules; the column is left out if it applies to none."""


def measure(
    title: str,
    value: Callable[[M], float | None],
    show: Callable[[float | None], str],
    of: Callable[[list[float]], float] = median,
    drop: int = 0,
) -> Measure[M]:
    """Return the column of one figure: `of` the values of those modules that have it."""

    def values(modules: Sequence[M]) -> list[float]:
        return [figure for module in modules if (figure := value(module)) is not None]

    def cell(modules: Sequence[M]) -> str:
        figures = values(modules)
        return show(of(figures) if figures else None)

    return Measure(Column(title, ">", drop=drop), cell, lambda modules: bool(values(modules)))


NUMBER: Measure[Any] = Measure(Column("", ">"), lambda modules: Span(f"× {count(len(modules))}", "dim"))


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


def module_table(
    title: str, rows: Sequence[tuple[str, Sequence[M]]], measures: Iterable[Measure[M]]
) -> Table:
    """Return one row for each name and its modules; measures that apply to no module are left out."""
    shown = [measure for measure in measures if any(measure.applies(modules) for _, modules in rows)]
    cells = [[Span(name, "name"), *(measure.of(modules) for measure in shown)] for name, modules in rows]
    return Table([Column(title), *(measure.column for measure in shown)], cells)


def single(
    modules: Iterable[M], label: Callable[[M], str] = lambda module: module.name
) -> list[tuple[str, list[M]]]:
    """Return a row for each module."""
    return [(label(module), [module]) for module in modules]


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
