"""How far the work is: on stderr, only on a terminal, and only when it takes longer than a second."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from gradience.cli.console import wants_colour
from gradience.report.names import display_name

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE_SECONDS = 1.0


class ProgressBar:
    """A callback `bar(done, total)` that draws nothing at first, and removes what it drew at the end.

    quiet: draw nothing at all.
    """

    def __init__(self, label: str, *, quiet: bool = False) -> None:
        self._label = display_name(label, 40)
        self._silent = quiet or not sys.stderr.isatty()
        self._started = time.monotonic()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._silent or time.monotonic() - self._started < PATIENCE_SECONDS:
            return
        if self._progress is None:
            self._progress = self._start()
        if self._task is None:
            self._task = self._progress.add_task("", total=total)
        self._progress.update(self._task, completed=done)

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=sys.stderr, no_color=not wants_colour(sys.stderr))
        # The label is a path from the command line, and must not be read as markup.
        columns = (
            TextColumn(self._label.replace("{", "{{").replace("}", "}}"), markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=console, transient=True)
        progress.start()
        return progress

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
