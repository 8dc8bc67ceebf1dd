"""Layout -> a checked adapter folder: modules computed in the pool, tensors written in the order of the file."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gradience.adapters.adapter import Adapter
from gradience.adapters.formats import open_adapter
from gradience.adapters.locate import CONFIG, WEIGHTS
from gradience.adapters.tensors import NewTensor, WeightsWriter
from gradience.blas import worker_threads
from gradience.compress.check import Measure, check_written, compared
from gradience.compress.encodings import write_config
from gradience.compress.layout import Layout
from gradience.compress.module import CompressedModule, Job, write_module
from gradience.files.whole import whole_folder
from gradience.progress import Progress

Make = Callable[[Job], CompressedModule]
"""Computes the bytes of one module."""


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """The weights file as written, and what every module lost (its bytes taken out)."""

    sha256: str
    size: int
    modules: Mapping[str, CompressedModule]


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
    name_of = layout.names
    job_of = {name_of[factor.tensor]: job for job in layout.jobs for factor in (job.pair.a, job.pair.b)}
    metadata = layout.jobs[0].pair.a.file.metadata or {"format": "pt"}
    tensors = dict(layout.beside)
    for job in layout.jobs:
        shape_A, shape_B = job.shapes()
        tensors[name_of[job.pair.a.tensor]] = NewTensor(job.dtype_A.name, shape_A)
        tensors[name_of[job.pair.b.tensor]] = NewTensor(job.dtype_B.name, shape_B)
    with WeightsWriter(path, tensors, metadata) as writer:
        ordered = dict.fromkeys(job_of[name].pair.module for name in writer.names if name in job_of)
        by_module = {job.pair.module: job for job in layout.jobs}
        coming = _ahead(pool, make, [by_module[module] for module in ordered], window=ahead)
        done: dict[str, CompressedModule] = {}
        waiting: dict[str, bytes] = {}
        for name in writer.names:
            if name not in job_of:
                for piece in layout.beside[name].data:
                    writer.put(piece)
                continue
            while name not in waiting:
                finished, compressed = next(coming)
                pair = finished.pair
                waiting |= {
                    name_of[pair.a.tensor]: compressed.data_A,
                    name_of[pair.b.tensor]: compressed.data_B,
                }
                done[pair.module] = compressed._replace(data_A=b"", data_B=b"", products=None)
                if progress:
                    progress(len(done), len(layout.jobs))
            writer.put(waiting.pop(name))
        return WrittenWeights(writer.close(), writer.size, done)


def _ahead(
    pool: ThreadPoolExecutor, make: Make, jobs: Sequence[Job], window: int
) -> Iterator[tuple[Job, CompressedModule]]:
    """Results in the order of `jobs`, with at most `window` modules in work or waiting: memory stays bounded."""
    pending: deque[tuple[Job, Future[CompressedModule]]] = deque()
    try:
        for job in jobs:
            pending.append((job, pool.submit(make, job)))
            if len(pending) >= window:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        for _, future in pending:  # the writer has failed: do not finish unread results
            future.cancel()
