"""`.live.json`: progress of a running Bench, read only by `gradience bench status`; and `run.log`.

It is written at each stage and every few seconds within a stage, and removed when the run ends normally. The
lock of the run's folder shows whether the run is still alive.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from gradience.errors import OutputError
from gradience.files.whole import write_whole
from gradience.progress import Watcher
from gradience.reports.bench_status import RunProcess, StageWork
from gradience.words import visible

LIVE = ".live.json"
BETWEEN = 5.0
"""Seconds between two times that it is written within a stage."""


class LiveStage(StageWork):
    """A stage that was begun."""

    seed: int
    name: str


class Live(BaseModel):
    """The file's content."""

    process: RunProcess
    executor: str
    begun: list[LiveStage] = []
    """Stages that were begun, or given to other processes; those that are over since included."""


class LiveRun(Watcher):
    """Passes on all calls, and keeps the file."""

    def __init__(self, file: Path, live: Live, inner: Watcher, *, spreads: bool) -> None:
        self.file, self.live, self.inner, self.spreads = file, live, inner, spreads
        self.written, self.number = 0.0, 0

    def seed(self, seed: int, number: int, of: int) -> None:
        """A seed begins."""
        self.number = seed
        self.inner.seed(seed, number, of)

    def stage(self, name: str, number: int, of: int | None) -> None:
        """A stage begins. Only other processes make several at once."""
        stage = LiveStage(seed=self.number, name=name, since=datetime.now(UTC))
        self.live.begun = [*(self.live.begun if self.spreads else []), stage]
        self.keep()
        self.inner.stage(name, number, of)

    def step(self, done: int, total: int) -> None:
        """A step is done, or some examples are answered."""
        if self.live.begun:
            progress = {"done": done, "of": total}
            self.live.begun[-1] = self.live.begun[-1].model_copy(update=progress)
        if time.monotonic() - self.written >= BETWEEN:
            self.keep()
        self.inner.step(done, total)

    def note(self, text: str) -> None:
        """Something is done again."""
        self.inner.note(text)

    def planned(self, text: str) -> None:
        """The plan is on the disk."""
        self.inner.planned(text)

    def keep(self) -> None:
        """Write the file. What the disk refuses here, the run itself will meet."""
        self.written = time.monotonic()
        with suppress(OutputError):
            write_whole(self.file, [self.live.model_dump_json().encode()])


@contextmanager
def kept_live(folder: Path, watcher: Watcher, *, executor: str, spreads: bool) -> Iterator[Watcher]:
    """Keep the file in `folder` while the block runs; gives the watcher that tells it what happens."""
    process = RunProcess(host=socket.gethostname(), pid=os.getpid(), since=datetime.now(UTC))
    run = LiveRun(folder / LIVE, Live(process=process, executor=executor), watcher, spreads=spreads)
    run.keep()
    try:
        yield run
    finally:
        with suppress(OSError):
            run.file.unlink(missing_ok=True)


# ------------------------------------------------------------ run.log


LOG = "run.log"
LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Visible(logging.Formatter):
    """A line of the log, which is read in a terminal: names and tracebacks in it cannot steer it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Everything that our loggers say, appended to the file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Visible(LINE))
    logger = logging.getLogger("gradience")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
