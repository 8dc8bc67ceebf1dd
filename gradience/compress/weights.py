"""Layout -> a checked adapter folder: modules computed in the pool, tensors written in the order of the file."""

import math
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from gradience.adapters.adapter import Adapter, LoraPair, tensors_of
from gradience.adapters.formats import open_adapter
from gradience.adapters.keys import is_applied, path_ends
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.tensors import NewTensor, decode, encode, in_order_of_type, write_tensors
from gradience.blas import worker_threads
from gradience.compare.adapters import compare_modules
from gradience.compress.layout import Layout, write_config
from gradience.compress.module import CompressedModule, Job, write_module
from gradience.errors import InputError
from gradience.files.whole import whole_folder
from gradience.progress import Progress
from gradience.spectra import FloatArray

Make = Callable[[Job], CompressedModule]
"""Computes the bytes of one module."""
Measure = Callable[[LoraPair, LoraPair], float | None]
"""(a module, the same module as written) -> its relative error; None if the update is 0."""


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """The weights file as written, and what every module lost (its bytes taken out)."""

    sha256: str
    size: int
    modules: Mapping[str, CompressedModule]


def compared(pair: LoraPair, written: LoraPair) -> float | None:
    """‖ΔW − ΔW′‖_F/‖ΔW‖_F; None if ΔW is 0."""
    return compare_modules(pair, written)[1].relative_difference


@contextmanager
def written_adapter(
    target: Path,
    layout: Layout,
    workers: int,
    progress: Progress | None,
    make: Make = write_module,
    measure: Measure = compared,
    *,
    force: bool,
) -> Iterator[tuple[Path, Adapter, WrittenWeights]]:
    """Write weights and config; yield the folder, the adapter as read back and checked, and the written weights.

    The folder replaces `target` if the block succeeds.   force: replace an existing folder.   measure: see
    `check_written`.
    """
    with whole_folder(target, force=force) as folder, worker_threads(workers) as pool:
        weights = write_weights(folder / WEIGHTS, layout, pool, 4 * workers, progress, make)
        write_config(folder / CONFIG, layout.new_fields)
        with open_adapter(folder) as written:
            check_written(written, layout, weights.modules, weights.size, measure)
            yield folder, written, weights


def write_weights(
    path: Path,
    layout: Layout,
    pool: ThreadPoolExecutor,
    ahead: int,
    progress: Progress | None,
    make: Make = write_module,
) -> WrittenWeights:
    """Write the weights file: every tensor in its order; the pool computes `ahead` modules before the writer."""
    tensors, job_of = dict(layout.beside), {}
    done: dict[str, CompressedModule] = {}
    waiting: dict[str, bytes] = {}

    def data_of(name: str) -> Iterator[bytes]:
        """The stored bytes of a factor; those of its pair come with it."""
        while name not in waiting:
            pair, compressed = next(coming)
            waiting[layout.names[pair.a.tensor]] = compressed.data_A
            waiting[layout.names[pair.b.tensor]] = compressed.data_B
            done[pair.module] = compressed._replace(data_A=b"", data_B=b"", products=None)
            if progress:
                progress(len(done), len(layout.jobs))
        yield waiting.pop(name)

    for job in layout.jobs:
        stored = zip(job.pair.factors.values(), (job.dtype_A, job.dtype_B), job.shapes(), strict=True)
        for factor, dtype, shape in stored:
            name = layout.names[factor.tensor]
            tensors[name], job_of[name] = NewTensor(dtype.name, shape, data_of(name)), job
    factors = [job_of[name] for name in in_order_of_type(tensors) if name in job_of]
    ordered = {job.pair.module: job for job in factors}
    metadata = layout.jobs[0].pair.a.file.metadata or {"format": "pt"}
    with closing(_ahead(pool, make, [*ordered.values()], window=ahead)) as coming:
        return WrittenWeights(*write_tensors(path, tensors, metadata), done)


def _ahead(
    pool: ThreadPoolExecutor, make: Make, jobs: Sequence[Job], window: int
) -> Generator[tuple[LoraPair, CompressedModule]]:
    """Results in the order of `jobs`, with at most `window` modules in work or waiting: memory stays bounded."""
    pending: deque[tuple[LoraPair, Future[CompressedModule]]] = deque()
    coming = iter(jobs)
    try:
        while True:
            pending += ((job.pair, pool.submit(make, job)) for job in islice(coming, window - len(pending)))
            if not pending:
                return
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        for _, future in pending:  # the writer has failed: do not finish unread results
            future.cancel()


# ---------------------------------------------------------------- read back by our own reader

CHECKED_PARAMS = 2**20
"""Parameters of the modules whose errors are measured twice: all of a small adapter, a few modules of a large one."""


class WrittenWrong(RuntimeError):
    """The written adapter differs from the plan: a bug in Gradience, so it keeps its traceback."""


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


# ---------------------------------------------------------------- the same adapter in other factors


def rotated(
    update: LoraPair, like: LoraPair, rank: int, draw: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return A and B of `update` in `rank` random directions, in the shapes of `like`.

    With Q (r, k) random and orthonormal, (B·Q)(Qᵀ·A) is the update B·A projected on k random directions of the r that
    lie between its factors. At k = r it is the same update: what changes in its answers is the noise of writing it.
    Zeros fill them up, and B makes up for another scale. Every expert of a stacked module has a Q of its own.
    """
    loaded = update.load()
    scale = update.scale / like.scale if update.scale and like.scale else 1.0
    factors_A, factors_B = [], []
    for expert in range(update.experts):
        basis = np.linalg.qr(draw.standard_normal((update.rank, rank)))[0]
        basis = np.pad(basis, ((0, 0), (0, like.rank - rank)))
        factors_A.append((decode(loaded.words_A(expert)) @ basis).T)
        factors_B.append(scale * decode(loaded.words_B(expert)) @ basis)
    # Experts stand first in A, and last in B.
    stacked_A, stacked_B = np.concatenate(factors_A), np.stack(factors_B, axis=-1)
    return stacked_A.reshape(like.a.entry.shape), stacked_B.reshape(like.b.entry.shape)


def write_rotated(adapter: Adapter, output: Path) -> None:
    """Write an open adapter with rotated factors to the folder `output`, each in its own storage type.

    All other tensors and the config stay. Raises InputError (`not-rotatable`) for a grouped convolution, whose B is
    block-diagonal.
    """
    grouped = next((pair.module for pair in adapter.pairs if pair.groups > 1), None)
    if grouped is not None:
        raise InputError(
            f"{adapter.location.path}: {grouped} is a grouped convolution, which has no other factors",
            code="not-rotatable",
            hint="nothing to do: there is no rewrite control for this adapter",
        )
    tensors = {name: tensor.to_write() for name, tensor in tensors_of(adapter.files).items()}
    draw = np.random.default_rng(0)
    waiting: dict[str, bytes] = {}

    def data_of(pair: LoraPair, name: str) -> Iterator[bytes]:
        """The stored bytes of a factor; those of its pair come with it."""
        if name not in waiting:
            factors = zip(pair.factors.values(), rotated(pair, pair, pair.rank, draw), strict=True)
            waiting.update(
                (factor.tensor, encode(values, factor.entry.dtype).tobytes()) for factor, values in factors
            )
        yield waiting.pop(name)

    for pair in adapter.pairs:
        for name in (factor.tensor for factor in pair.factors.values()):
            tensors[name] = tensors[name]._replace(data=data_of(pair, name))
    with whole_folder(output, force=True) as folder:
        write_tensors(folder / WEIGHTS, tensors, dict(adapter.files[0].metadata) or {"format": "pt"})
        assert adapter.config is not None
        shutil.copyfile(adapter.config.path, folder / CONFIG)
