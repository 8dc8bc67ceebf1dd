"""`runtime.workers`: stages made by processes of this machine, in the folder of the run.

A machine with GPUs gives each stage as many of them as it needs, by CUDA_VISIBLE_DEVICES. Without GPUs the processes
share the processor. They end with the process that started them.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from gradience.bench.run.live import LINE
from gradience.bench.run.orders import StageFailure, StageOrder, make_stage
from gradience.errors import UsageError
from gradience.models.devices import VISIBLE, devices_of
from gradience.orphans import ends_with_parent
from gradience.words import counted

WORKER = (sys.executable, "-m", "gradience.bench.run.processes")
LOGS = ".logs"
BETWEEN = 0.05
"""Seconds between two looks at the processes."""
PATIENCE = 30.0
"""Seconds that a process has to end after a request to stop."""
ATTEMPTS = 3
"""Attempts at a stage whose process ends by a signal."""


@dataclass(slots=True)
class _Running:
    order: StageOrder
    folder: Path
    process: subprocess.Popen[bytes]
    devices: Sequence[str]
    reply: IO[bytes]


def refuse_too_many(order: StageOrder, gpus: int, most: int, machine: str) -> None:
    """Raise UsageError (`too-few-gpus`) for a stage that would wait for ever. most: GPUs of the largest machine."""
    if gpus > most:
        raise UsageError(
            f"{order.stage} needs {counted(gpus, 'GPU')}, and {machine} has {counted(most, 'GPU')}",
            code="too-few-gpus",
            hint="set runtime.processes to the number of GPUs of one machine or fewer",
        )


class Processes:
    """Makes stages beside each other on this machine."""

    def __init__(self, device: str, workers: int | None, note: Callable[[str], None]) -> None:
        self.devices, self.note = devices_of(device), note
        self.slots = workers or max(1, len(self.devices))
        self.running: list[_Running] = []
        self.lost: Counter[tuple[int, str]] = Counter()

    def submit(self, order: StageOrder, folder: Path, gpus: int) -> bool:
        """Start the stage, unless there is no room now. Raises UsageError (`too-few-gpus`)."""
        if self.devices:
            refuse_too_many(order, gpus, len(self.devices), "this machine")
        used = {device for running in self.running for device in running.devices}
        free = [device for device in self.devices if device not in used]
        if len(self.running) >= self.slots or (self.devices and len(free) < gpus):
            return False
        self._start(order, folder, free[:gpus])
        return True

    def ended(self) -> list[tuple[StageOrder, StageFailure | None]]:
        """Wait until a stage has ended, and return each that has, with its failure. Starts again what was killed."""
        while True:
            over = [running for running in self.running if running.process.poll() is not None]
            ended = [(running.order, failure) for running in over for failure in self._end(running)]
            if ended or not self.running:
                return ended
            time.sleep(BETWEEN)

    def close(self) -> None:
        """Ask every process to end, and kill it if it does not."""
        for running in self.running:
            running.process.terminate()
        for running in self.running:
            try:
                running.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
            running.reply.close()
        self.running.clear()

    def _start(self, order: StageOrder, folder: Path, devices: Sequence[str]) -> None:
        reply = tempfile.TemporaryFile()  # noqa: SIM115  (read when the process has ended)
        log = _log_of(folder, order)
        log.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as order_file, log.open("ab") as errors:
            order_file.write(json.dumps(asdict(order)).encode())
            order_file.seek(0)
            process = subprocess.Popen(
                [*WORKER, str(folder), order.stage],
                env=os.environ | ({VISIBLE: ",".join(devices)} if self.devices else {}),
                stdin=order_file,
                stdout=reply,
                stderr=errors,
                preexec_fn=ends_with_parent,
            )
        self.running.append(_Running(order, folder, process, devices, reply))

    def _end(self, running: _Running) -> list[StageFailure | None]:
        """Return the outcome of the stage; empty if it was restarted."""
        self.running.remove(running)
        code, name = running.process.returncode, (running.order.seed, running.order.stage)
        with running.reply:
            running.reply.seek(0)
            reply_text = running.reply.read()
        if code == 0:
            return [StageFailure.parse(reply_text) if reply_text else None]
        how = f"its process ended with {code} ({_log_of(running.folder, running.order)} has its output)"
        self.lost[name] += 1
        if code < 0 and self.lost[name] < ATTEMPTS:
            self.note(f"{running.order.stage}: tried again: {how}")
            self._start(running.order, running.folder, running.devices)
            return []
        return [StageFailure("ProcessEnded", how)]


def _log_of(folder: Path, order: StageOrder) -> Path:
    return folder / LOGS / f"{order.stage}.log"


def main() -> None:
    """Make one stage: `python -m gradience.bench.run.processes FOLDER STAGE`, which `ps` shows.

    The order comes as JSON on standard input, a failure goes as JSON to standard output; what libraries print goes to
    standard error. A bug ends with its traceback and exit code 1.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as reply:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        order = json.load(sys.stdin)
        failure = make_stage(StageOrder(**order | {"inputs": tuple(order["inputs"])}), Path(sys.argv[1]))
        if failure is not None:
            json.dump(asdict(failure), reply)


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # ends the processes of a training
    logging.basicConfig(level=logging.INFO, format=LINE)
    main()
