"""The weights file of a compressed adapter: modules computed in the pool, tensors written in the order of the file."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gradience.adapters.adapter import Adapter
from gradience.adapters.tensors import NewTensor, WeightsWriter, pieces
from gradience.compress.layout import Layout
from gradience.compress.module import CompressedModule, Job, write_module
from gradience.progress import Progress


@dataclass(frozen=True, slots=True)
class WrittenWeights:
    """The weights file as written, and what every module lost (its bytes taken out)."""

    sha256: str
    size: int
    modules: Mapping[str, CompressedModule]


def write_weights(
    path: Path,
    opened: Adapter,
    layout: Layout,
    pool: ThreadPoolExecutor,
    ahead: int,
    progress: Progress | None,
    make: Callable[[Job], CompressedModule] = write_module,
) -> WrittenWeights:
    """Write the weights file: every tensor in its order; the pool computes `ahead` modules before the writer.

    make: what computes the bytes of one module.
    """
    name_of = layout.names
    source_of = {name: tensor for tensor, name in name_of.items()}
    job_of = {name_of[factor.tensor]: job for job in layout.jobs for factor in (job.pair.a, job.pair.b)}
    files = {name: file for file in opened.files for name in file.entries}
    metadata = dict(opened.files[0].metadata) or {"format": "pt"}
    tensors: dict[str, NewTensor] = {}
    for job in layout.jobs:
        shape_A, shape_B = job.shapes()
        tensors[name_of[job.pair.a.tensor]] = NewTensor(job.dtype_A.name, shape_A)
        tensors[name_of[job.pair.b.tensor]] = NewTensor(job.dtype_B.name, shape_B)
    for tensor in layout.carried:
        entry = files[tensor].entries[tensor]
        tensors[name_of[tensor]] = NewTensor(entry.dtype.name, entry.shape)
    with WeightsWriter(path, tensors, metadata) as writer:
        ordered = dict.fromkeys(job_of[name].pair.module for name in writer.names if name in job_of)
        by_module = {job.pair.module: job for job in layout.jobs}
        coming = _ahead(pool, make, [by_module[module] for module in ordered], window=ahead)
        done: dict[str, CompressedModule] = {}
        waiting: dict[str, bytes] = {}
        for name in writer.names:
            if name not in job_of:
                for piece in pieces(files[source_of[name]], source_of[name]):
                    writer.put(piece)
                continue
            while name not in waiting:
                finished, compressed = next(coming)
                pair = finished.pair
                waiting |= {
                    name_of[pair.a.tensor]: compressed.data_A,
                    name_of[pair.b.tensor]: compressed.data_B,
                }
                done[pair.module] = compressed._replace(data_A=b"", data_B=b"", products=())
                if progress:
                    progress(len(done), len(layout.jobs))
            writer.put(waiting.pop(name))
        return WrittenWeights(writer.close(), writer.size, done)


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[Job], CompressedModule], jobs: Sequence[Job], window: int
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
