"""What was written, read back: the names that PEFT looks for, the ranks, the scales and the errors that are reported.

Our own reader cannot prove that PEFT loads a folder; `peft_load` asks PEFT itself. This check runs always.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from gradience.adapters.adapter import Adapter, LoraPair
from gradience.adapters.formats import open_adapter
from gradience.adapters.keys import parse_key, path_ends
from gradience.adapters.naming import PREFIX, is_applied, peft_name
from gradience.compare.module import compare_modules
from gradience.compress.layout import Layout
from gradience.compress.module import CompressedModule, Job

CHECKED_PARAMS = 2**20
"""Parameters of the modules whose errors are measured twice: all of a small adapter, a few modules of a large one."""


class WrittenWrong(RuntimeError):
    """What was written is not what was meant: a bug of Gradience, so it keeps its traceback."""


def check_written(folder: Path, layout: Layout, modules: Mapping[str, CompressedModule], size: int) -> None:
    """Read the adapter in `folder` back, by the rules of its format.

    Raises WrittenWrong, before anybody sees the folder.

    The errors of the modules are measured again by another route (`compare`), up to CHECKED_PARAMS.
    """
    with open_adapter(folder) as written:
        for complaint in _complaints(written, layout, modules, size):
            raise WrittenWrong(f"{folder}: {complaint}")


def _complaints(
    written: Adapter, layout: Layout, modules: Mapping[str, CompressedModule], size: int
) -> Iterator[str]:
    if written.bytes != size:
        yield f"{written.bytes} bytes, not {size}"
    pairs = {pair.module: pair for pair in written.pairs}
    name_of = {job.pair.module: layout.modules.get(job.pair.module, job.pair.module) for job in layout.jobs}
    if pairs.keys() != set(name_of.values()):
        yield "the modules are not those of the plan"
    names = {name for name, _ in written.entries()}
    if names != set(layout.names.values()) or written.unaudited:
        yield "the tensors are not those that were to be written"
    if layout.form is None:
        yield from _peft_complaints(written, layout)
    for job in layout.jobs:
        yield from _module_complaints(job, pairs[name_of[job.pair.module]])
    yield from _error_complaints(layout, {name: pairs[new] for name, new in name_of.items()}, modules)


def _peft_complaints(written: Adapter, layout: Layout) -> Iterator[str]:
    misnamed = sorted(name for name, _ in written.entries() if not is_applied(name))
    if misnamed:
        yield f"PEFT would not find {misnamed[0]}"
    yield from _config_complaints(written, layout)


def _config_complaints(written: Adapter, layout: Layout) -> Iterator[str]:
    """The config names what the file holds, and nothing that was left out of it."""
    config = written.config
    if config is None:
        yield "no adapter_config.json"
        return
    for pair in layout.dropped:
        if not config.target_names.isdisjoint(path_ends(pair.module)):
            yield f"the config still targets {pair.module}"
    kept = set(layout.names.values())  # a copy of one of these may be left out
    for tensor in layout.stripped:
        name = peft_name(tensor)
        if (
            parse_key(tensor).role == "other"
            and name not in kept
            and config.saved_whole(name.removeprefix(PREFIX))
        ):
            yield f"PEFT would look for {tensor}, which was stripped"


def _module_complaints(job: Job, pair: LoraPair) -> Iterator[str]:
    if not pair.rank == job.stored_rank == (pair.declared_rank or pair.rank):
        yield f"{pair.module} has the rank {pair.rank}, in the config {pair.declared_rank}, not {job.stored_rank}"
    if pair.scale is None or not math.isclose(pair.scale * job.fold, job.scale, rel_tol=1e-12):
        yield f"{pair.module} has the scale {pair.scale}, not {job.scale / job.fold if job.fold else 0.0}"


def _error_complaints(
    layout: Layout, pairs: Mapping[str, LoraPair], modules: Mapping[str, CompressedModule]
) -> Iterator[str]:
    checked = 0
    for job in sorted(layout.jobs, key=lambda job: job.pair.params):
        checked += job.pair.params
        if checked > CHECKED_PARAMS:
            return
        _, energies = compare_modules(job.pair, pairs[job.pair.module])
        error = energies.relative_difference or 0.0
        written = modules[job.pair.module]
        noise = 1e-8 + 1e-13 * written.cancellation
        if not math.isclose(error, written.error or 0.0, rel_tol=1e-6, abs_tol=noise):
            yield f"{job.pair.module} has an error of {error}, not {written.error}"
