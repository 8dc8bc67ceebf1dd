"""A map of modules: their kinds down, transformer layers across, a colour for what is asked of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from gradience.adapters.families import family_of, layer_of
from gradience.report.audit.heat import short_labels
from gradience.report.plots.plot import Axis, Image, Plot
from gradience.reports.base.modules import M, by_kind
from gradience.reports.base.numbers import count, percent, plural, sig

MOST_KINDS = 40


def map_plot(
    modules: Iterable[M],
    name: str,
    title: str,
    color: Axis,
    *,
    value: Callable[[M], float | None],
    said: Callable[[M], str],
    weight: Callable[[M], int],
) -> Plot | None:
    """Return a map of the stack with the most modules; nothing where no module belongs to a layer.

    >>> map_plot(report.modules, "energy", "Energy kept", Axis("energy kept", form="share"), value=kept, ...)

    color: what the colour says, and its ends. value: of one module, None where it has none; several in one place
    (experts) show their median. said: where the pointer is. weight: of many kinds the heaviest are shown.
    """
    every = list(modules)
    places = _largest_stack(every)
    if not places:
        return None
    inside = [module for module in every if module.name in places]
    indices = sorted(set(places.values()))
    kinds, hidden = by_kind(inside, weight, MOST_KINDS)
    labels = short_labels([kind for kind, _ in kinds])
    cells: list[list[list[M]]] = []
    for _, members in kinds:
        of_layer: dict[int, list[M]] = {index: [] for index in indices}
        for module in members:
            of_layer[places[module.name]].append(module)
        cells.append(list(of_layer.values()))
    values = [[_median([value(module) for module in cell]) for cell in row] for row in cells]
    return Plot(
        name,
        title,
        Axis("layer", scale="categories", categories=[str(index) for index in indices]),
        Axis("module", scale="categories", categories=[labels[kind] for kind, _ in kinds]),
        [Image(title, values, [[_said(cell, said) for cell in row] for row in cells], color)],
        _sentence(color, values, len(inside), len(every) - len(inside), hidden),
    )


def _largest_stack(modules: Sequence[M]) -> dict[str, int]:
    """The layer of each module in the stack with the most modules, such as `model.layers`."""
    stacks: Counter[str] = Counter()
    of_stack: dict[str, dict[str, int]] = {}
    for module in modules:
        layer, index = layer_of(module.name)
        if layer is not None and index is not None:
            stack = layer.rpartition(".")[0]
            stacks[stack] += 1
            of_stack.setdefault(stack, {})[module.name] = index
    largest = min(stacks, key=lambda stack: (-stacks[stack], stack), default="")
    return of_stack.get(largest, {})


def _sentence(
    color: Axis, values: Sequence[Sequence[float | None]], inside: int, left_out: int, hidden: int
) -> str:
    rest = f"; {plural(left_out, 'module')} elsewhere left out" if left_out else ""
    more = f"; {plural(hidden, 'kind')} left out" if hidden else ""
    known = sorted(each for row in values for each in row if each is not None)
    form = percent if color.form == "share" else sig
    spread = "is not measured"
    if known:
        spread = f"goes from {form(known[0])} to {form(known[-1])}, {form(median(known))} at the median"
    return f"Over {plural(inside, 'module')} {color.title} {spread}{rest}{more}."


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(median(known)) if known else None


def _said(cell: Sequence[M], said: Callable[[M], str]) -> str:
    """What is said of the module in a cell; of several (experts) how many they are."""
    if len(cell) > 1:
        return f"{family_of(cell[0].name)}\nmedian of {count(len(cell))} modules"
    return said(cell[0]) if cell else ""
