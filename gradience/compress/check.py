"""Checks of a written adapter, which is read back by our own reader."""

import math
from collections.abc import Callable, Iterator, Mapping

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.keys import is_applied, path_ends
from gradience.compare.module import compare_modules
from gradience.compress.layout import Layout
from gradience.compress.module import CompressedModule

CHECKED_PARAMS = 2**20
"""Parameters of the modules whose errors are measured twice: all of a small adapter, a few modules of a large one."""

Measure = Callable[[LoraPair, LoraPair], float | None]
"""(a module, the same module as written) -> its relative error; None if the update is 0."""


class WrittenWrong(RuntimeError):
    """The written adapter differs from the plan: a bug in Gradience, so it keeps its traceback."""


def compared(pair: LoraPair, written: LoraPair) -> float | None:
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F; None if ΔW is 0."""
    return compare_modules(pair, written)[1].relative_difference


def check_written(
    written: Adapter,
    layout: Layout,
    modules: Mapping[str, CompressedModule],
    size: int,
    measure: Measure = compared,
) -> None:
    """Compare the adapter that was read back with what was to be written.

    Raises WrittenWrong, before the folder is put in place.

    The errors of the modules are measured again by `measure`, up to `CHECKED_PARAMS` parameters.
    """
    for complaint in _complaints(written, layout, modules, size, measure):
        raise WrittenWrong(f"{written.location.path}: {complaint}")


def _complaints(
    written: Adapter,
    layout: Layout,
    modules: Mapping[str, CompressedModule],
    size: int,
    measure: Measure,
) -> Iterator[str]:
    if written.bytes != size:
        yield f"{written.bytes} bytes, not {size}"
    by_name = {pair.module: pair for pair in written.pairs}
    if by_name.keys() != {job.pair.module for job in layout.jobs}:
        yield "the modules are not those of the plan"
    names = {name for name, _ in written.entries()}
    if names != set(layout.names.values()) or written.unaudited:
        yield "the tensors are not those that were to be written"
    misnamed = sorted(name for name in names if not is_applied(name))
    if misnamed:
        yield f"PEFT would not find {misnamed[0]}"
    yield from _config_complaints(written, layout)
    checked = 0
    for job in sorted(layout.jobs, key=lambda job: job.pair.params):
        module, pair = job.pair.module, by_name[job.pair.module]
        if not pair.rank == job.stored_rank == (pair.declared_rank or pair.rank):
            ranks = f"the rank {pair.rank}, in the config {pair.declared_rank}, not {job.stored_rank}"
            yield f"{pair.module} has {ranks}"
        wanted = job.scale * job.strength
        if pair.scale is None or not math.isclose(pair.scale * job.fold, wanted, rel_tol=1e-12):
            meant = wanted / job.fold if job.fold else 0.0
            yield f"{pair.module} has the scale {pair.scale}, not {meant}"
        checked += job.pair.params
        if checked > CHECKED_PARAMS:
            continue
        error = measure(job.pair, pair) or 0.0
        if not math.isclose(error, modules[module].error or 0.0, rel_tol=1e-6, abs_tol=modules[module].noise):
            yield f"{module} has an error of {error}, not {modules[module].error}"


def _config_complaints(written: Adapter, layout: Layout) -> Iterator[str]:
    """Yield complaints if the modules of config and file differ."""
    config = written.config
    if config is None:
        yield "no adapter_config.json"
        return
    for pair in layout.dropped:
        if not config.target_names.isdisjoint(path_ends(pair.module)):
            yield f"the config still targets {pair.module}"
