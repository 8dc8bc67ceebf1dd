"""Where is it lost? By kind of modules, the modules that lose most, and every module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from gradience.reports.base.blocks import Block, Column, Heading, Note, Notes
from gradience.reports.base.modules import NUMBER, Measure, by_kind, measure, module_table, single
from gradience.reports.base.numbers import count, number_range, percent, plural, sig, size, trimmed
from gradience.reports.base.view import View, more
from gradience.reports.compression import CompressionPlan, CompressionReport, ModulePlan, ModuleResult
from gradience.spectra import GRAM_TOLERANCE

Module = ModulePlan | ModuleResult

SHOWN_KINDS, SHOWN_WORST, LISTED_WORST = 12, 5, 10
SHOWN_RANKS = 6
"""Different ranks that are counted one by one."""
LISTED_MODULES = 1000
"""Rows of the last table of a document; an adapter of many experts has more, and the JSON has them."""
CERTAIN_ERROR = math.sqrt(GRAM_TOLERANCE)
"""A predicted error is the root of an energy that is lost, and energies are known to GRAM_TOLERANCE at worst."""


def predicted(error: float | None) -> str:
    """Return a predicted error, no smaller than it can be known."""
    return f"under {sig(CERTAIN_ERROR, 1)}" if error is not None and 0 < error < CERTAIN_ERROR else sig(error)


# ---------------------------------------------------------------- measures of one module, or of several


def _change(field: str, show: Callable[[list[int]], str]) -> Callable[[Sequence[Module]], str]:
    """`64 → 16`, or one of them where they are equal."""

    def cell(modules: Sequence[Module]) -> str:
        before, after = (
            show([getattr(module, f"{when}_{field}") for module in modules]) for when in ("old", "new")
        )
        return before if before == after else f"{before} → {after}"

    return cell


def _written(field: str) -> Callable[[Module], float | None]:
    """A figure that a plan does not have."""
    return lambda module: getattr(module, field) if isinstance(module, ModuleResult) else None


def _stored_rank(module: Module) -> int:
    return module.stored_rank if isinstance(module, ModuleResult) else module.new_rank


def error_of(module: Module) -> float | None:
    """Return the measured error of a written module, the predicted one of a planned."""
    return module.measured_error if isinstance(module, ModuleResult) else module.predicted_error


RANK: Measure[Module] = Measure(Column("rank", ">"), _change("rank", number_range))
ON_DISK: Measure[Module] = Measure(
    Column("on disk", ">", drop=4),
    lambda modules: number_range(map(_stored_rank, modules)),
    lambda modules: any(_stored_rank(module) != module.new_rank for module in modules),
)
KEPT: Measure[Module] = measure("kept", lambda module: module.kept_energy, percent)
PREDICTED: Measure[Module] = measure(
    "predicted", lambda module: module.predicted_error, predicted, max, drop=3
)
ERROR: Measure[Module] = measure("error", _written("measured_error"), sig, max)
LAYER_ERROR: Measure[Module] = measure("DoRA layer", _written("output_error"), sig, max)
PARAMETERS: Measure[Module] = Measure(
    Column("parameters", ">", drop=2), _change("params", lambda numbers: count(sum(numbers)))
)
BYTES: Measure[Module] = Measure(
    Column("bytes", ">", drop=1), _change("bytes", lambda numbers: size(sum(numbers)))
)


# ---------------------------------------------------------------- tables


def where_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return one row for each kind, the modules that lose most, and what is unusual."""
    modules: Sequence[Module] = compression.modules
    kinds, hidden = by_kind(modules, lambda module: module.old_params, SHOWN_KINDS if view.brief else None)
    error = PREDICTED if isinstance(compression, CompressionPlan) else ERROR
    losing = worst(modules, SHOWN_WORST if view.brief else LISTED_WORST)
    notes = [Note("info", text) for text in (*spread(modules), *keeping(modules))]
    return [
        Heading("Where?", aside="of each kind: median energy kept, largest error"),
        module_table("kind", kinds, (NUMBER, RANK, ON_DISK, KEPT, error, LAYER_ERROR, PARAMETERS)),
        *more(hidden, "more kind of modules", view.rest, "more kinds of modules"),
        *([module_table("loses most", single(losing), (RANK, KEPT, error))] if losing else []),
        *([Notes(notes)] if notes else []),
    ]


def layer_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Return one row for each module, in the order of the adapter; a document lists the first LISTED_MODULES."""
    if view.brief:
        return []
    modules: Sequence[Module] = compression.modules
    shown = modules if view.layers else modules[:LISTED_MODULES]
    table = module_table(
        "module", single(shown), (RANK, ON_DISK, KEPT, PREDICTED, ERROR, LAYER_ERROR, PARAMETERS, BYTES)
    )
    return [Heading("Every module"), table, *more(len(modules) - len(shown), "more module", " in the JSON")]


def worst(modules: Iterable[Module], number: int) -> list[Module]:
    """Return the truncated modules that lose most: rounding alone is no loss to speak of."""
    lossy = [
        module
        for module in modules
        if module.new_rank < module.old_rank and (module.predicted_error or 0.0) > CERTAIN_ERROR
    ]
    return sorted(lossy, key=lambda module: (-(error_of(module) or 0.0), module.name))[:number]


def spread(modules: Iterable[Module]) -> list[str]:
    """Return how many modules get which rank; nothing where all get the same."""
    numbers = Counter(module.new_rank for module in modules)
    if len(numbers) < 2:
        return []
    if len(numbers) > SHOWN_RANKS:
        return [f"new ranks: {min(numbers)} to {max(numbers)}, median {trimmed(median(numbers.elements()))}"]
    counted = (f"{rank} in {plural(number, 'module')}" for rank, number in sorted(numbers.items()))
    return [f"new ranks: {', '.join(counted)}"]


def keeping(modules: Iterable[Module]) -> list[str]:
    """Return how many modules keep their rank whatever was asked for, by reason."""
    reasons = Counter(module.fixed for module in modules if isinstance(module, ModulePlan) and module.fixed)
    return [
        f"{plural(number, 'module keeps its rank', 'modules keep their rank')}: {reason}"
        for reason, number in reasons.items()
    ]
