"""Where is it lost? By kind of modules, the modules that lose most, and every module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from gradience.artifacts.compression import CompressionPlan, CompressionReport, ModulePlan, ModuleResult
from gradience.report.blocks import Block, Column, Heading, Note, Notes
from gradience.report.modules import NUMBER, Measure, by_kind, module_table, single
from gradience.report.numbers import count, number_range, percent, plural, sig, size, trimmed
from gradience.report.view import View, more
from gradience.spectra import GRAM_TOLERANCE

Module = ModulePlan | ModuleResult

SHOWN_KINDS, SHOWN_WORST, LISTED_WORST = 12, 5, 10
SHOWN_RANKS = 6
"""Different ranks that are counted one by one."""
CERTAIN_ERROR = math.sqrt(GRAM_TOLERANCE)
"""A predicted error is the root of an energy that is lost, and energies are known to GRAM_TOLERANCE at worst."""


def predicted(error: float | None) -> str:
    """A predicted error, no smaller than it can be known."""
    return f"under {sig(CERTAIN_ERROR, 1)}" if error is not None and 0 < error < CERTAIN_ERROR else sig(error)


# ---------------------------------------------------------------- measures of one module, or of several


def _median_kept(modules: Sequence[Module]) -> str:
    energies = [energy for module in modules if (energy := module.kept_energy) is not None]
    return percent(median(energies) if energies else None)


def _largest(modules: Iterable[Module], error: Callable[[Module], float | None]) -> float | None:
    return max((value for module in modules if (value := error(module)) is not None), default=None)


def _error_of(module: Module) -> float | None:
    """Measured where the module is written, predicted where it is planned."""
    return module.measured_error if isinstance(module, ModuleResult) else module.predicted_error


def _largest_error(modules: Sequence[Module]) -> str:
    largest = _largest(modules, _error_of)
    return sig(largest) if _are_written(modules) else predicted(largest)


def _layer_error(module: Module) -> float | None:
    return module.output_error if isinstance(module, ModuleResult) else None


def _stored_rank(module: Module) -> int:
    return module.stored_rank if isinstance(module, ModuleResult) else module.new_rank


def _are_written(modules: Sequence[Module]) -> bool:
    return isinstance(modules[0], ModuleResult)


def _arrow(old: str, new: str) -> str:
    return old if old == new else f"{old} → {new}"


RANK: Measure[Module] = Measure(
    Column("rank", ">"),
    lambda modules: _arrow(
        number_range(module.old_rank for module in modules),
        number_range(module.new_rank for module in modules),
    ),
)
ON_DISK: Measure[Module] = Measure(
    Column("on disk", ">", drop=4),
    lambda modules: number_range(map(_stored_rank, modules)),
    lambda modules: any(_stored_rank(module) != module.new_rank for module in modules),
)
KEPT: Measure[Module] = Measure(Column("kept", ">"), _median_kept)
PREDICTED: Measure[Module] = Measure(
    Column("predicted", ">", drop=2),
    lambda modules: predicted(_largest(modules, lambda module: module.predicted_error)),
    _are_written,
)
ERROR: Measure[Module] = Measure(Column("error", ">"), _largest_error)
LAYER_ERROR: Measure[Module] = Measure(
    Column("DoRA layer", ">"),
    lambda modules: sig(_largest(modules, _layer_error)),
    lambda modules: _largest(modules, _layer_error) is not None,
)
PARAMETERS: Measure[Module] = Measure(
    Column("parameters", ">", drop=3),
    lambda modules: _arrow(
        count(sum(module.old_params for module in modules)),
        count(sum(module.new_params for module in modules)),
    ),
)
BYTES: Measure[Module] = Measure(
    Column("bytes", ">", drop=1),
    lambda modules: _arrow(
        size(sum(module.old_bytes for module in modules)), size(sum(module.new_bytes for module in modules))
    ),
)
OF_KIND: tuple[Measure[Module], ...] = (NUMBER, RANK, ON_DISK, KEPT, ERROR, LAYER_ERROR, PARAMETERS)
OF_WORST: tuple[Measure[Module], ...] = (RANK, KEPT, ERROR)
OF_MODULE: tuple[Measure[Module], ...] = (
    RANK,
    ON_DISK,
    KEPT,
    PREDICTED,
    ERROR,
    LAYER_ERROR,
    PARAMETERS,
    BYTES,
)


# ---------------------------------------------------------------- tables


def where_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """One row a kind, the modules that lose most, and what is unusual."""
    modules: Sequence[Module] = compression.modules
    kinds, hidden = by_kind(modules, lambda module: module.old_params, SHOWN_KINDS if view.brief else None)
    losing = worst(modules, SHOWN_WORST if view.brief else LISTED_WORST)
    notes = [Note("info", text) for text in (*spread(modules), *keeping(modules))]
    return [
        Heading("Where?", aside="of each kind: median energy kept, largest error"),
        module_table("kind", kinds, OF_KIND),
        *more(hidden, "more kind of modules", view.rest, "more kinds of modules"),
        *([module_table("loses most", single(losing), OF_WORST)] if losing else []),
        *([Notes(notes)] if notes else []),
    ]


def layer_blocks(compression: CompressionPlan | CompressionReport, view: View) -> list[Block]:
    """Every module, where that is asked for."""
    return every_module(compression.modules) if view.layers else []


def every_module(modules: Sequence[Module], most: int | None = None) -> list[Block]:
    """One row a module, at most `most`, in the order of the adapter."""
    shown = modules[:most]
    table = module_table("module", single(shown), OF_MODULE)
    rest = more(len(modules) - len(shown), "more module", " in compression_report.json")
    return [Heading("Every module"), table, *rest]


def worst(modules: Iterable[Module], number: int) -> list[Module]:
    """The truncated modules that lose most: rounding alone is no loss to speak of."""
    lossy = [
        module
        for module in modules
        if module.new_rank < module.old_rank and (module.predicted_error or 0.0) > CERTAIN_ERROR
    ]
    return sorted(lossy, key=lambda module: (-(_error_of(module) or 0.0), module.name))[:number]


def spread(modules: Iterable[Module]) -> list[str]:
    """How many modules get which rank; nothing where all get the same."""
    numbers = Counter(module.new_rank for module in modules)
    if len(numbers) < 2:
        return []
    if len(numbers) > SHOWN_RANKS:
        return [f"new ranks: {min(numbers)} to {max(numbers)}, median {trimmed(median(numbers.elements()))}"]
    counted = (f"{rank} in {plural(number, 'module')}" for rank, number in sorted(numbers.items()))
    return [f"new ranks: {', '.join(counted)}"]


def keeping(modules: Iterable[Module]) -> list[str]:
    """How many modules keep their rank whatever was asked for, by reason."""
    reasons = Counter(module.fixed for module in modules if isinstance(module, ModulePlan) and module.fixed)
    return [
        f"{plural(number, 'module keeps its rank', 'modules keep their rank')}: {reason}"
        for reason, number in reasons.items()
    ]
