"""Adapters spread over processes: a thread for each process hands it an adapter and waits for the reply.

A request is a line of JSON on the process's standard input, a reply a line on its standard output, so that no
untrusted data is unpacked in the parent process. A worker ends when its input closes: then the parent has ended too.
A process that dies of an adapter (memory, a fault in a library) costs only that adapter's reply; another takes its
place.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

from threadpoolctl import threadpool_limits

from gradience.blas import processors

Request = dict[str, Any]
"""`task`, a name of TASKS; `path` and `name` of an adapter; and what else the task takes."""


def measure(request: Request) -> str:
    """Return the row of an adapter."""
    from gradience.fleet.measure import measure

    row = measure(Path(request["path"]), request["name"], **request["options"])
    return row.to_json(indent=None)


def truncate(request: Request) -> str:
    """Return what became of an adapter that was to be written smaller."""
    from gradience.fleet.verb import truncate
    from gradience.reports.fleet import FleetRow

    row = FleetRow.model_validate(request["row"])
    places = Path(request["path"]), Path(request["target"])
    return json.dumps(asdict(truncate(row, *places, request["rank"], request["options"])))


TASKS: dict[str, Callable[[Request], str]] = {"measure": measure, "truncate": truncate}


def reply(request: Request) -> bytes:
    """Return the reply to a request, a line of JSON."""
    return TASKS[request["task"]](request).encode() + b"\n"


def serve(requests: TextIO) -> None:
    """Answer every request on standard output, in order, until there are no more."""
    with threadpool_limits(limits=1, user_api="blas"):
        for line in requests:
            sys.stdout.buffer.write(reply(json.loads(line)))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # the parent was killed
    serve(sys.stdin)


WORTH_A_PROCESS = 16
"""Minimum adapters per process, so that its start pays off."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


Reply = tuple[Request, bytes | str]
"""A request and its reply. A string is the reason why the process ended during the request."""


def processes_for(number: int, workers: int | None) -> int:
    """Return a useful number of processes for `number` adapters: at most `workers`, by default one per processor."""
    return max(1, min(workers or processors(), number // WORTH_A_PROCESS))


def replies(requests: Sequence[Request], *, workers: int | None = None) -> Iterator[Reply]:
    """Yield every request with its reply, as they come.

    workers: processes; the processor count by default. With few requests this process does it all by itself.
    """
    count = processes_for(len(requests), workers)
    if count == 1:
        with threadpool_limits(limits=1, user_api="blas"):
            for request in requests:
                yield request, reply(request)
        return
    free: SimpleQueue[_Process] = SimpleQueue()

    def ask(request: Request) -> Reply:
        process = free.get()
        try:
            return request, process.ask(request)
        finally:
            free.put(process)

    with ExitStack() as stack:
        for _ in range(count):
            free.put(stack.enter_context(closing(_Process())))
        pool = ThreadPoolExecutor(count)
        stack.callback(
            pool.shutdown, wait=True, cancel_futures=True
        )  # they begin nothing more once this is left
        for done in as_completed([pool.submit(ask, request) for request in requests]):
            yield done.result()


class _Process:
    """A process of `worker`, started at the first request, and restarted after it died."""

    def __init__(self) -> None:
        self._running: subprocess.Popen[bytes] | None = None

    def ask(self, request: Request) -> bytes | str:
        """Return the reply to a request."""
        running = self._running or self._start()
        assert running.stdin is not None
        assert running.stdout is not None
        try:
            running.stdin.write(json.dumps(request).encode() + b"\n")
            running.stdin.flush()
            line = running.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return line
        self.close()
        return f"the process that worked on it ended with exit code {running.returncode}"

    def _start(self) -> subprocess.Popen[bytes]:
        self._running = subprocess.Popen(
            [sys.executable, "-P", "-m", "gradience.fleet.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **ONE_THREAD},
            process_group=0,  # Ctrl-C reaches only the parent, which then closes the input
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
