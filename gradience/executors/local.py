"""`runtime.executor: local`: processes of this machine, one for each device.

A machine with GPUs gives each command as many of them as it needs, by CUDA_VISIBLE_DEVICES; without GPUs there are
`runtime.workers` processes, which share the processor.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from typing import IO

from gradience.executors.executor import Ended, Job, Order, refuse_too_many_gpus
from gradience.models.devices import VISIBLE, devices_of
from gradience.orphans import ends_with_parent

LOOK = 0.05
"""Seconds between two looks at the processes."""
PATIENCE = 30.0
"""Seconds that a process has to end after it was asked to."""


@dataclass(slots=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    devices: tuple[str, ...]
    log: IO[bytes]


class LocalExecutor:
    """Runs commands beside each other on this machine."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.devices = devices_of(order.device)
        self.has_gpus = bool(self.devices)
        self.slots = order.workers or max(1, len(self.devices))
        self.waiting: list[Job] = []
        self.running: dict[str, _Running] = {}

    @property
    def room(self) -> int:
        """A command for each slot: what waits is chosen again after each that ends."""
        return max(0, self.slots - len(self.running) - len(self.waiting))

    def submit(self, job: Job) -> None:
        """Run it as soon as there is a slot, and the devices that it needs. Raises UsageError (`too-few-gpus`)."""
        if self.devices:
            refuse_too_many_gpus(job, len(self.devices), "this machine")
        self.waiting.append(job)
        self._start()

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended, within so many seconds."""
        until = time.monotonic() + seconds
        while True:
            over = [each for each in self.running.values() if each.process.poll() is not None]
            if over or time.monotonic() >= until:
                break
            time.sleep(LOOK)
        for each in over:
            self._forget(each)
        self._start()
        return [Ended(each.job.name, each.process.returncode) for each in over]

    def close(self) -> None:
        """Ask every process to end, and end it where it does not."""
        self.waiting.clear()
        for each in self.running.values():
            each.process.terminate()
        for each in list(self.running.values()):
            try:
                each.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
            self._forget(each)

    def _start(self) -> None:
        """Start what waits, in its order: GPUs that the first needs are not given to those behind it."""
        queue_stands = False
        for job in list(self.waiting):
            if len(self.running) >= self.slots:
                return
            devices = self._free(job.needs.gpus)
            if devices is None or (devices and queue_stands):
                queue_stands = True
                continue
            self.waiting.remove(job)
            self._run(job, devices)

    def _run(self, job: Job, devices: tuple[str, ...]) -> None:
        environment = os.environ | self.order.environment
        if self.devices:
            environment[VISIBLE] = ",".join(devices)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = job.log.open("ab")
        process = subprocess.Popen(
            job.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=ends_with_parent,
        )
        self.running[job.name] = _Running(job, process, devices, log)

    def _free(self, wanted: int) -> tuple[str, ...] | None:
        """So many devices that nobody uses; None where there are not enough now."""
        if not self.devices:
            return ()
        used = {device for each in self.running.values() for device in each.devices}
        free = [device for device in self.devices if device not in used]
        return tuple(free[:wanted]) if len(free) >= wanted else None

    def _forget(self, each: _Running) -> None:
        each.log.close()
        del self.running[each.job.name]
