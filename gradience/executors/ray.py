"""`runtime.executor: ray`: tasks of Ray Core on the cluster that RAY_ADDRESS names, or on one of this machine.

A task runs one command. Ray starts it where the GPUs are that it needs, and again where the worker or the node is lost;
whether it is done already, or still being done by an orphan, the command finds out by the lease.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import IO, Any

from gradience.errors import NetworkError, require
from gradience.executors.executor import Ended, Job, Order, refuse_too_many_gpus

RETRIES = 5
"""Of a task whose worker or node was lost."""
LOOK = 2.0
"""Seconds between two looks at the head of the cluster."""
PATIENCE = 20.0
"""Seconds of its silence after which it is lost. After 60 Ray would end this process, without a word of ours."""


class RayExecutor:
    """Runs commands as tasks of Ray."""

    def __init__(self, order: Order) -> None:
        self.ray: Any = require("ray", extra="ray")
        self.order = order
        self.tasks: dict[Any, Job] = {}
        self.lost = False
        """Whether the cluster is gone: nothing can be cancelled then."""
        self.joined = not self.ray.is_initialized()
        if self.joined:
            # RAY_ADDRESS, else the cluster last started on this machine, else one that ends with this process.
            self.ray.init(log_to_driver=False, configure_logging=False)
        self.run: Any = self.ray.remote(run_command)
        self.head: str = self.ray.get_runtime_context().gcs_address
        self.heard: float | None = None
        """When the head last answered; None where it never did, as behind a proxy: nothing follows from that."""
        self.nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        self.has_gpus = order.device not in ("cpu", "mps") and self._most("GPU") > 0

    @property
    def room(self) -> int | None:
        """Ray queues what it has no resources for."""
        return None if self.order.workers is None else max(0, self.order.workers - len(self.tasks))

    def submit(self, job: Job) -> None:
        """Hand the command to Ray. Raises UsageError (`too-few-gpus`), where Ray would wait for ever."""
        if self.has_gpus:
            refuse_too_many_gpus(job, self._most("GPU"), "the largest node of the cluster")
        task = self.run.options(max_retries=RETRIES, name=job.name, **self._resources(job))
        reference = task.remote(list(job.command), dict(self.order.environment), str(job.log))
        self.tasks[reference] = job

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended, within so many seconds. Raises NetworkError (`ray-lost`) where the cluster's head is gone."""
        if not self.tasks:
            time.sleep(seconds)
            return []
        until = time.monotonic() + seconds
        while True:
            timeout = max(0.0, min(LOOK, until - time.monotonic()))
            ready, _ = self.ray.wait(list(self.tasks), num_returns=1, timeout=timeout)
            self._listen()
            if ready or time.monotonic() >= until:
                return [self._ended(reference, self.tasks.pop(reference)) for reference in ready]

    def close(self) -> None:
        """Cancel what runs, and leave the cluster."""
        for reference in () if self.lost else self.tasks:
            self.ray.cancel(reference, force=True)
        if self.joined:
            self.ray.shutdown()

    def _listen(self) -> None:
        """Whether the head answers; where it has not for long, the cluster is lost."""
        host, _, port = self.head.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=LOOK).close()
        except OSError as error:
            if self.heard is not None and time.monotonic() - self.heard > PATIENCE:
                raise self._gone(f"its head does not answer: {error.strerror or error}") from None
            return
        self.heard = time.monotonic()

    def _gone(self, why: str) -> NetworkError:
        self.lost = True
        return NetworkError(
            f"the Ray cluster at {self.head} is lost: {why}",
            code="ray-lost",
            hint="start it again, and the same command: what is finished is kept",
        )

    def _resources(self, job: Job) -> dict[str, Any]:
        """What Ray keeps for a command: GPUs, or where there are none the cores and the memory that it computes in.

        Cores and memory by the largest node: an estimate is no reason to wait for ever.
        """
        if self.has_gpus:
            return {"num_cpus": 1, "num_gpus": job.needs.gpus}
        resources: dict[str, Any] = {
            "num_cpus": max(1, min(job.needs.cpus, self._most("CPU"))),
            "num_gpus": 0,
        }
        if job.needs.memory_bytes is not None:
            resources["memory"] = min(job.needs.memory_bytes, self._most("memory"))
        return resources

    def _most(self, resource: str) -> int:
        """Of the node that has most of it."""
        return int(max((node.get(resource, 0) for node in self.nodes), default=0))

    def _ended(self, reference: Any, job: Job) -> Ended:
        errors = self.ray.exceptions
        try:
            return Ended(job.name, int(self.ray.get(reference)))
        except (errors.WorkerCrashedError, errors.NodeDiedError, errors.TaskCancelledError) as lost:
            return Ended(job.name, -9, f"{type(lost).__name__} after {RETRIES} retries")
        except errors.LocalRayletDiedError:
            raise self._gone("Ray's process on this machine (the raylet) has ended") from None
        except errors.OutOfMemoryError as lost:
            return Ended(job.name, -9, str(lost).partition("\n")[0])
        except errors.RayTaskError as failed:  # such as a Python that is not there
            return Ended(job.name, -9, str(failed.cause))


def run_command(command: list[str], environment: dict[str, str], log: str) -> int:
    """Run a command in a process of its own, which ends with this one. Returns its exit code.

    Where this machine has no such folder, there is no log.
    """
    import subprocess

    from gradience.orphans import ends_with_parent

    with _log_or_nothing(Path(log)) as file:
        done = subprocess.run(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            preexec_fn=ends_with_parent,
            check=False,
        )
    return done.returncode


def _log_or_nothing(log: Path) -> IO[bytes]:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        return log.open("ab")
    except OSError:
        return open(os.devnull, "ab")
