"""Adapters spread over processes: a thread for each process hands it an adapter and waits for the row.

A process that dies of an adapter (memory, a fault in a library) costs that adapter's row alone: the row says so, and
another process takes its place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing, contextmanager, suppress
from queue import SimpleQueue

from threadpoolctl import threadpool_limits

from gradience.artifacts.fleet import FleetRow
from gradience.blas import processors
from gradience.fleet.discover import Member
from gradience.fleet.measure import failed, measure

WORTH_A_PROCESS = 16
"""Adapters below which another process would not earn its start."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def processes_for(members: int, workers: int | None) -> int:
    """Return how many processes are worth while for so many adapters; at most `workers`, by default one a processor."""
    return max(1, min(workers or processors(), members // WORTH_A_PROCESS))


def measured_rows(
    members: Sequence[Member], *, workers: int | None = None, max_memory: int | None = None
) -> Iterator[FleetRow]:
    """Yield the row of every adapter, as they come.

    workers: processes; the processor count by default. With few adapters this process does it all by itself.
    """
    count = processes_for(len(members), workers)
    if count == 1:
        with threadpool_limits(limits=1, user_api="blas"):
            for member in members:
                yield measure(member.path, member.name, max_memory=max_memory)
        return
    free: SimpleQueue[_Process] = SimpleQueue()
    with ExitStack() as stack:
        for _ in range(count):
            free.put(stack.enter_context(closing(_Process())))
        pool = stack.enter_context(_threads(count))
        waiting: set[Future[FleetRow]] = set()
        for member in members:
            if len(waiting) >= 2 * count:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            waiting.add(pool.submit(_ask, free, member, max_memory))
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that do not begin anything more once the block is left."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ask(free: SimpleQueue[_Process], member: Member, max_memory: int | None) -> FleetRow:
    process = free.get()
    try:
        return process.row(member, max_memory)
    finally:
        free.put(process)


class _Process:
    """A process of `worker`, started when it is first asked, and again after it died."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None

    def row(self, member: Member, max_memory: int | None) -> FleetRow:
        """Return the row of an adapter."""
        running = self._running or self._start()
        assert running.stdin is not None
        assert running.stdout is not None
        request = {"path": str(member.path), "name": member.name, "max_memory": max_memory}
        try:
            running.stdin.write(json.dumps(request).encode() + b"\n")
            running.stdin.flush()
            line = running.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return FleetRow.model_validate_json(line)
        self.close()
        return failed(
            member.name,
            "process-died",
            f"the process that measured it ended with exit code {running.returncode}",
        )

    def _start(self) -> subprocess.Popen[bytes]:
        self._running = subprocess.Popen(
            [sys.executable, "-P", "-m", "gradience.fleet.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
        )
        return self._running

    def close(self) -> None:
        """Close its input and wait until it has ended."""
        running, self._running = self._running, None
        if running is None:
            return
        for pipe in (running.stdin, running.stdout):
            with suppress(BrokenPipeError):  # a request that nobody read
                if pipe is not None:
                    pipe.close()
        running.wait()
