"""`.live.json`: which process runs a Bench, and what it is at; for whoever looks from outside, and for nobody else.

It is written at each stage, and every few seconds within one, and is gone when the run has ended by itself. A process
that was killed leaves it, and is known by its number and its beginning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from gradience.artifacts.whole import write_whole
from gradience.errors import OutputError
from gradience.progress import Watcher
from gradience.storage.lease import Holder, this_process

LIVE = ".live.json"
BETWEEN = 5.0
"""Seconds between two times that it is written, within a stage."""


class Live(BaseModel):
    """The file's content."""

    process: Holder
    executor: str
    workers: int | None
    storage: str | None
    spreads: bool
    """Whether other processes make the stages; `stage` is then empty."""
    seed: int = 0
    stage: str = ""
    since: datetime
    """When the stage began."""
    done: int | None = None
    of: int | None = None


class LiveRun(Watcher):
    """Passes on all that it is told, and keeps the file."""

    def __init__(self, file: Path, live: Live, inner: Watcher) -> None:
        self.file, self.live, self.inner = file, live, inner
        self.written = 0.0

    def seed(self, seed: int, number: int, of: int) -> None:
        """A seed begins."""
        self.live.seed = seed
        self.inner.seed(seed, number, of)

    def stage(self, name: str, number: int, of: int | None) -> None:
        """A stage begins."""
        if not self.live.spreads:
            self.live = self.live.model_copy(
                update={"stage": name, "since": datetime.now(UTC), "done": None, "of": None}
            )
            self.keep()
        self.inner.stage(name, number, of)

    def step(self, done: int, total: int) -> None:
        """A step is done, or some examples are answered."""
        self.live.done, self.live.of = done, total
        if time.monotonic() - self.written >= BETWEEN:
            self.keep()
        self.inner.step(done, total)

    def tokens(self, count: int) -> None:
        """Tokens were read and written."""
        self.inner.tokens(count)

    def note(self, text: str) -> None:
        """Something is done again."""
        self.inner.note(text)

    def keep(self) -> None:
        """Write the file. What the disk refuses here, the run itself will meet."""
        self.written = time.monotonic()
        with suppress(OutputError):
            write_whole(self.file, [self.live.model_dump_json().encode()])


@contextmanager
def kept_live(
    folder: Path, watcher: Watcher, *, executor: str, workers: int | None, storage: str | None, spreads: bool
) -> Iterator[Watcher]:
    """Keep the file in `folder` while the block runs; gives the watcher that tells it what happens."""
    process = this_process()
    live = Live(
        process=process,
        executor=executor,
        workers=workers,
        storage=storage,
        spreads=spreads,
        since=process.since,
    )
    run = LiveRun(folder / LIVE, live, watcher)
    run.keep()
    try:
        yield run
    finally:
        with suppress(OSError):
            run.file.unlink(missing_ok=True)
