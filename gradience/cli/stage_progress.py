"""How far a Bench run is: stages and the steps within, on stderr; lines without a terminal, bars with one."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gradience.cli.console import wants_colour

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class StageProgress:
    """A watcher of `gradience.bench.run.seed`. quiet: says nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._started = time.monotonic()
        self._seed = ""
        self._progress: Progress | None = None
        self._stages: TaskID | None = None
        self._steps: TaskID | None = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._progress = _bars()
            self._progress.start()
            self._stages = self._progress.add_task("stages", total=None)
            self._steps = self._progress.add_task("", total=None)
        return self

    def seed(self, seed: int, number: int, of: int) -> None:
        """A seed begins."""
        self._seed = f"seed {seed} ({number} of {of}), " if of > 1 else ""

    def stage(self, name: str, number: int, of: int) -> None:
        """A stage begins; of how many is what is known so far."""
        if self._progress is None:
            if not self._quiet:
                minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
                print(
                    f"{minutes:3}:{seconds:02} {self._seed}stage {number} of {of}: {name}",
                    file=sys.stderr,
                    flush=True,
                )
            return
        assert self._stages is not None
        assert self._steps is not None
        self._progress.update(self._stages, description=f"{self._seed}stages", completed=number - 1, total=of)
        self._progress.reset(self._steps, description=name, total=None)

    def step(self, done: int, total: int) -> None:
        """A step of the training, or a batch of the evaluation, is done."""
        if self._progress is not None and self._steps is not None:
            self._progress.update(self._steps, completed=done, total=total)

    def note(self, text: str) -> None:
        """Why something is done again."""
        if self._progress is not None:
            self._progress.console.print(
                f"note: {self._seed}{text}", markup=False, highlight=False, soft_wrap=True
            )
        elif not self._quiet:
            print(f"note: {self._seed}{text}", file=sys.stderr, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr, no_color=not wants_colour(sys.stderr))
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
