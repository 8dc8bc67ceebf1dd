"""Plots that several reports share: largest bars, sizes before and after, a map of modules, lines by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from gradience.adapters.families import family_of, layer_of
from gradience.reports.base.modules import M, by_kind, short_labels
from gradience.reports.base.numbers import count, percent, plural, sig
from gradience.reports.plots.plot import Axis, BarSeries, Form, Image, Lines, Plot

MOST_BARS = 24
"""Bars in one plot."""
MOST_KINDS = 400
"""Rows of a map, which scrolls on a page."""
STEP = Axis("step", form="count")
LAYER = Axis("stable rank, median of the layer", low=1.0)


def largest_plot(
    name: str,
    title: str,
    measure: str,
    rows: Iterable[tuple[str, float | None]],
    unit: str = "",
    form: Form = "number",
    noun: str = "module",
) -> Plot | None:
    """Return bars of the largest values of `noun`; None if no value is known."""
    known = sorted(((label, value) for label, value in rows if value is not None), key=lambda row: -row[1])
    if not known:
        return None
    drawn = known[:MOST_BARS]
    figure = percent if form == "share" else sig
    some = f"the largest {count(len(drawn))} of " if len(drawn) < len(known) else ""
    return Plot(
        name,
        title,
        Axis(measure, unit, low=0.0, form=form),
        Axis(noun, categories=[label for label, _ in drawn]),
        [BarSeries(measure, [value for _, value in drawn])],
        f"{measure[0].upper()}{measure[1:]}: {some}{plural(len(known), noun)}, from {figure(known[-1][1])} to"
        f" {figure(known[0][1])}.",
    )


def before_after(before: Sequence[float | None], after: Sequence[float | None]) -> list[BarSeries]:
    """Return the bars of sizes before and after."""
    return [BarSeries("before", before, tone="dim"), BarSeries("after", after, tone="accent")]


def map_plot(
    modules: Sequence[M],
    name: str,
    title: str,
    color: Axis,
    *,
    value: Callable[[M], float | None],
    hover: Callable[[M], str],
    weight: Callable[[M], int],
) -> Plot | None:
    """Return a map of the stack with the most modules; None if no module belongs to a layer.

    >>> map_plot(report.modules, "map", "Error", Axis("relative error", form="share"), value=error_of, ...)

    color: the quantity shown by the color, and its range. value: the value of one module, or None; several modules in
    one cell (experts) show their median. hover: the hover text of a module. weight: if there are many kinds, the
    heaviest are shown.
    """
    sizes: Counter[str] = Counter()
    stacks: dict[str, dict[str, int]] = {}
    for module in modules:
        layer, index = layer_of(module.name)
        if layer is not None and index is not None:
            stack = layer.rpartition(".")[0]
            sizes[stack] += 1
            stacks.setdefault(stack, {})[module.name] = index
    if not stacks:
        return None
    layers = stacks[min(sizes, key=lambda stack: (-sizes[stack], stack))]
    inside = [module for module in modules if module.name in layers]
    indices = sorted(set(layers.values()))
    kinds, hidden = by_kind(inside, weight, MOST_KINDS)
    labels = short_labels([kind for kind, _ in kinds])
    values: list[list[float | None]] = []
    hovers: list[list[str]] = []
    for _, members in kinds:
        cells: dict[int, list[M]] = {index: [] for index in indices}
        for module in members:
            cells[layers[module.name]].append(module)
        values.append([])
        hovers.append([])
        for cell in cells.values():
            measured = [figure for module in cell if (figure := value(module)) is not None]
            values[-1].append(float(median(measured)) if measured else None)
            several = f"{family_of(cell[0].name)}\nmedian of {count(len(cell))} modules" if cell else ""
            hovers[-1].append(hover(cell[0]) if len(cell) == 1 else several)
    known = sorted(figure for row in values for figure in row if figure is not None)
    form = percent if color.form == "share" else sig
    spread = "not measured"
    if known:
        spread = f"{form(known[0])} to {form(known[-1])}, median {form(median(known))}"
    elsewhere = len(modules) - len(inside)
    rest = f"; {plural(elsewhere, 'module')} outside this stack left out" if elsewhere else ""
    more = f"; {plural(hidden, 'kind')} left out" if hidden else ""
    return Plot(
        name,
        title,
        Axis("layer", categories=[str(index) for index in indices]),
        Axis("module", categories=[labels[kind] for kind, _ in kinds]),
        [Image(title, values, hovers, color)],
        f"{title} of {plural(len(inside), 'module')}: {spread}{rest}{more}.",
    )


def shaded(
    layers: Mapping[str, Sequence[float | None]], at: Sequence[int], run: str = "", *, dashed: bool = False
) -> list[Lines]:
    """Return a line for each layer, the first dark and the last light."""
    return [
        Lines(
            f"{run}{name}",
            at,
            values,
            shade=place / max(1, len(layers) - 1),
            marked=len(at) < 3,
            dashed=dashed,
        )
        for place, (name, values) in enumerate(layers.items())
    ]


def shades_said(lines: Sequence[Lines]) -> str:
    """Return a sentence on the meaning of the shades, if several lines have one; otherwise an empty text."""
    depths = {line.shade for line in lines if line.shade is not None}
    return " Early layers are dark, late ones light." if len(depths) > 1 else ""
