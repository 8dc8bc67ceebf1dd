"""The weights file of a compressed adapter: modules computed in the pool, tensors written in the order of the file."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from gradience.adapters.adapter import Adapter
from gradience.adapters.headers import NewTensor, header_bytes, in_order_of_type
from gradience.adapters.tensors import TensorFile
from gradience.compress.forms.form import Form
from gradience.compress.layout import Layout
from gradience.compress.module import CompressedModule, Job, write_module
from gradience.digests import Sha256
from gradience.progress import Progress
from gradience.reading import pread_blocks


class WeightsWriter:
    """Writes one safetensors file: the header first, then every tensor in the order of `names`.

    Use as a context manager, in a folder that is synced before it gets its name (`whole_folder`).
    size: bytes written so far.
    """

    def __init__(self, path: Path, tensors: Mapping[str, NewTensor], metadata: Mapping[str, str]) -> None:
        ordered = in_order_of_type(tensors)
        self.names: tuple[str, ...] = tuple(ordered)
        self.size = 0
        self._digest = Sha256()
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 (__exit__ closes it)
        self._head = header_bytes(ordered, metadata)

    def __enter__(self) -> Self:
        self.put(self._head)
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def put(self, data: bytes | bytearray | memoryview) -> None:
        """The next bytes of the next tensor. Raises OSError."""
        view = memoryview(data)
        self._digest.update(view)
        self.size += len(view)
        while view:
            view = view[self._file.write(view) :]

    def close(self) -> str:
        """Close the file and return the SHA-256 of what was written. Raises OSError."""
        self._file.close()
        return self._digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Weights:
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
) -> Weights:
    """Write the weights file: every tensor in its order; the pool computes `ahead` modules before the writer."""
    name_of = layout.names
    source_of = {name: tensor for tensor, name in name_of.items()}
    job_of = {name_of[factor.tensor]: job for job in layout.jobs for factor in (job.pair.a, job.pair.b)}
    files = {name: file for file in opened.files for name in file.entries}
    metadata = dict(opened.files[0].metadata) or {"format": "pt"}
    if layout.settings is not None:
        metadata = dict(layout.settings.metadata)
    with WeightsWriter(path, _tensors(opened, layout), metadata) as writer:
        ordered = dict.fromkeys(job_of[name].pair.module for name in writer.names if name in job_of)
        by_module = {job.pair.module: job for job in layout.jobs}
        coming = _ahead(pool, [by_module[module] for module in ordered], window=ahead)
        done: dict[str, CompressedModule] = {}
        waiting: dict[str, bytes] = {}
        for name in writer.names:
            job = job_of.get(name)
            if job is None:
                for piece in pieces(files[source_of[name]], source_of[name]):
                    writer.put(piece)
                continue
            while name not in waiting:
                finished, compressed = next(coming)
                pair = finished.pair
                data_A, data_B = _in_order(layout.form, finished, compressed)
                waiting |= {name_of[pair.a.tensor]: data_A, name_of[pair.b.tensor]: data_B}
                done[pair.module] = compressed._replace(data_A=b"", data_B=b"")
                if progress:
                    progress(len(done), len(layout.jobs))
            writer.put(waiting.pop(name))
        return Weights(writer.close(), writer.size, done)


def pieces(file: TensorFile, name: str) -> Iterator[bytearray]:
    """Return the stored bytes of a tensor, a few MB at a time: a head may be larger than all factors together."""
    entry = file.entries[name]
    return pread_blocks(file.handle, entry.size, entry.start, file.path)


def _tensors(opened: Adapter, layout: Layout) -> dict[str, NewTensor]:
    tensors: dict[str, NewTensor] = {}
    for job in layout.jobs:
        shape_A, shape_B = _shapes(layout.form, job)
        tensors[layout.names[job.pair.a.tensor]] = NewTensor(job.dtype_A.name, shape_A)
        tensors[layout.names[job.pair.b.tensor]] = NewTensor(job.dtype_B.name, shape_B)
    entries = dict(opened.entries())
    for name in layout.carried:
        tensors[layout.names[name]] = NewTensor(entries[name].dtype.name, entries[name].shape)
    return tensors


def _shapes(form: Form | None, job: Job) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of A and B as they are written."""
    shape_A, shape_B = job.shapes()
    if form is None:
        return shape_A, shape_B
    # A view of a placeholder of this shape has the turned shape; no element is stored.
    blank = np.zeros((), np.uint8)
    pair = job.pair
    return (
        form.turn(np.broadcast_to(blank, shape_A), "A", pair).shape,
        form.turn(np.broadcast_to(blank, shape_B), "B", pair).shape,
    )


def _in_order(form: Form | None, job: Job, done: CompressedModule) -> tuple[bytes, bytes]:
    """The bytes of A and B in the order of axes that the format has."""
    if form is None:
        return done.data_A, done.data_B
    shape_A, shape_B = job.shapes()
    words_A = np.frombuffer(done.data_A, job.dtype_A.numpy).reshape(shape_A)
    words_B = np.frombuffer(done.data_B, job.dtype_B.numpy).reshape(shape_B)
    return form.turn(words_A, "A", job.pair).tobytes(), form.turn(words_B, "B", job.pair).tobytes()


def _ahead(
    pool: ThreadPoolExecutor, jobs: Sequence[Job], window: int
) -> Iterator[tuple[Job, CompressedModule]]:
    """Results in the order of `jobs`, with at most `window` modules in work or waiting: memory stays bounded."""
    pending: deque[tuple[Job, Future[CompressedModule]]] = deque()
    try:
        for job in jobs:
            pending.append((job, pool.submit(write_module, job)))
            if len(pending) >= window:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        for _, future in pending:  # the writer has failed: do not finish what nobody reads
            future.cancel()
