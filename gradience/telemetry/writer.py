"""Appending to run.jsonl so that a crash at any moment leaves a file that reads.

Every line is one `write(2)` on a descriptor opened with O_APPEND, so lines of several writers do
not mix and a killed process loses at most the line it was writing. What a crash tore is closed
with a newline before the next line is written.
"""

import os
import time
import uuid
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self

from gradience.redaction import clean
from gradience.telemetry.records import ENVELOPE, SCHEMA, encode


class RunStatus(StrEnum):
    """Final status of a run. `aborted` in files of the original project is read as `interrupted`."""

    OK = "ok"
    INTERRUPTED = "interrupted"
    ERROR = "error"


class TelemetryWriter:
    """Appends records to one file. Creates parent folders and never truncates the file.

    >>> with TelemetryWriter("runs/run.jsonl") as run:
    ...     run.start({"lora": {"r": 16}})
    ...     run.train_step(10, loss=0.7, lr=1e-4)

    path        file to append to; parent folders are created
    run_id      id of the run; by default a new random id (pass the old one when a run is resumed)

    As a context manager it also writes `run_end`: ok, interrupted (Ctrl-C, exit) or error with the
    exception's type. The exception is re-raised.

    Raises OSError from the constructor and from every write (disk full, read-only, no permission); the caller
    decides whether that matters. A short write is repaired by the next one.
    """

    def __init__(self, path: str | os.PathLike[str], *, run_id: str | None = None) -> None:
        self.path = Path(path)
        self.run_id = run_id or str(uuid.uuid4())
        self._started = time.monotonic()
        self._ended = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    @property
    def ended(self) -> bool:
        """Return True if this writer has written `run_end`."""
        return self._ended

    def elapsed(self) -> float:
        """Seconds since this writer was made, from the monotonic clock, in milliseconds."""
        return round(time.monotonic() - self._started, 3)

    def write(self, event: str, step: int | None = None, /, **payload: object) -> None:
        """Append one record of any event. Keys of the envelope cannot be payload."""
        if self._fd is None:
            raise ValueError(f"{self.path.name} is closed")
        clash = [key for key in ENVELOPE if key in payload]
        if clash:
            raise ValueError(f"{', '.join(clash)}: reserved for the envelope, not allowed in the payload")
        origin = {"schema": SCHEMA, "ts": round(time.time(), 3), "run_id": self.run_id}
        line = encode({**origin, "event": event, "step": step}, clean(payload))
        if _torn(self._fd):
            line = b"\n" + line
        written = os.write(self._fd, line)
        if written < len(line):
            raise OSError(28, f"wrote {written} of {len(line)} bytes", str(self.path))

    def start(
        self,
        config: Mapping[str, object],
        *,
        meta: Mapping[str, object] | None = None,
        resumed_from_step: int | None = None,
    ) -> None:
        """`run_start`: how the run is set up, and the step that it is resumed from, if any."""
        resumed = {} if resumed_from_step is None else {"resumed_from_step": resumed_from_step}
        self.write("run_start", resumed_from_step, config=config, meta=dict(meta or {}), **resumed)

    def train_step(self, step: int, **values: object) -> None:
        """`train_step`: loss, lr, grad_norm, epoch and other numbers of one logging step."""
        self.write("train_step", step, **{**values, "elapsed_s": self.elapsed()})

    def eval(self, step: int | None, metrics: Mapping[str, object], *, split: str = "eval") -> None:
        """`eval`: the metrics of one evaluation on one split."""
        self.write("eval", step, split=split, metrics=metrics)

    def metrics(self, kind: str, step: int | None, metrics: Mapping[str, object]) -> None:
        """`metrics`: measurements of one kind (`lora_spectra`, `lora_audit`, yours)."""
        self.write("metrics", step, kind=kind, metrics=metrics)

    def end(
        self, status: RunStatus, *, step: int | None = None, reason: str | None = None, **facts: object
    ) -> None:
        """`run_end`, once, and to the disk. A second call does nothing."""
        if self._ended:
            return
        facts |= {"reason": reason} if reason else {}
        self.write("run_end", step, **{"status": status.value, "elapsed_s": self.elapsed(), **facts})
        self._ended = True
        if self._fd is not None:
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file. Closing twice is fine; writing afterwards raises ValueError."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.end(status_of(kind), reason=kind.__name__ if kind else None)
        except OSError:
            if error is None:
                raise  # nothing else is on its way to the caller, so this must be
        finally:
            self.close()


def status_of(kind: type[BaseException] | None) -> RunStatus:
    """The status that an exception's type means for a run."""
    if kind is None:
        return RunStatus.OK
    if issubclass(kind, (KeyboardInterrupt, SystemExit, GeneratorExit)):
        return RunStatus.INTERRUPTED
    return RunStatus.ERROR


def _torn(fd: int) -> bool:
    """Return True if the file's last byte is not a newline, so a write was interrupted."""
    info = os.fstat(fd)
    if info.st_size == 0:
        return False
    try:
        return os.pread(fd, 1, info.st_size - 1) != b"\n"
    except OSError:
        return False  # a pipe or a device has no last byte to look at
