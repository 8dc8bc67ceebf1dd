"""Progress on stderr: a bar for one verb, and stages for a Bench run."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from gradience.cli.console import beneath, note_line, wants_color
from gradience.progress import Watcher
from gradience.reports.base.names import display_name

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_SECONDS = 1.0
LINE_SECONDS = 30.0
"""Seconds between two lines about the same work without a terminal."""
DOING = {
    "train": "training",
    "eval": "evaluating",
    "scores": "scoring gold responses with",
    "adapter": "making",
    "audit": "auditing",
    "calibration": "calibrating",
    "distill": "distilling",
}
"""The last part of a stage's name -> what is done in it."""


class _Bars(ExitStack):
    """Bars that are removed when the context ends, however it ends."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__()
        self._quiet, self._terminal = quiet, sys.stderr.isatty()
        self._started = time.monotonic()
        self._progress: Progress | None = None
        if quiet:  # read when huggingface_hub is imported
            os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

    def _say(self, line: str, *, aloud: bool = False) -> None:
        """Print a line above the bars. aloud: even if quiet."""
        if self._progress is not None:
            from rich.text import Text

            self._progress.console.print(Text.from_ansi(line), soft_wrap=True)
        elif aloud or not self._quiet:
            print(line, file=beneath(sys.stderr), flush=True)

    def _clock(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"{minutes:3}:{seconds:02}"

    def _start(self, *, elapsed: bool = False) -> Progress:
        from rich import progress as rich
        from rich.console import Console

        self._progress = rich.Progress(
            rich.TextColumn("{task.description}", markup=False),  # names from strangers
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            *([rich.TimeElapsedColumn()] if elapsed else []),
            rich.TimeRemainingColumn(),
            console=Console(file=beneath(sys.stderr), no_color=not wants_color(sys.stderr)),
            transient=True,
        )
        return self.enter_context(self._progress)


class ProgressBar(_Bars):
    """A callback `bar(done, total)`: a bar on a terminal if the work takes over a second, else a line now and then.

    quiet: draw and print nothing.
    announce: print the label at once if there is no terminal, for work that takes minutes.
    """

    def __init__(self, label: str, *, quiet: bool = False, announce: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._label = display_name(label, 40)
        self._pace = _Pace(self._started)
        if announce and not self._terminal:
            self._say(f"{self._clock()} {self._label}")

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if not self._terminal:
            if line := self._pace.line(done, total, now):
                self._say(f"{self._clock()} {self._label}: {line}")
        elif not self._quiet and now - self._started >= PATIENCE_SECONDS:
            bars = self._progress or self._start()
            if not bars.tasks:
                bars.add_task(self._label, total=total)
            bars.update(bars.tasks[0].id, completed=done)


class StageProgress(_Bars, Watcher):
    """The stages of a Bench run and the steps within them; lines without a terminal, bars with one.

    quiet: says nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self._part = ""
        """The seed or the data set at work, if there are several."""
        self._stages_done = 0
        self._pace = _Pace(0.0)

    def seed(self, seed: int, number: int, of: int) -> None:
        """Show that a seed begins."""
        self._part = f"seed {seed} ({number} of {of}), " if of > 1 else ""

    def data_set(self, name: str, number: int, of: int) -> None:
        """Show that a data set begins."""
        self._part = f"{name} ({number} of {of}), "

    def stage(self, name: str, number: int, of: int | None) -> None:
        """Show that a stage begins. of: number of stages, if known."""
        variant, _, step = name.rpartition("/")
        if variant == "guards":
            doing = f"evaluating guard {display_name(step, 40)}"
        else:
            doing = f"{DOING[step]} {display_name(variant or 'probe', 40)}"
        self._stages_done, self._pace = number - 1, _Pace(time.monotonic())
        if self._quiet or not self._terminal:
            self._say(f"{self._clock()} {self._part}stage {number}{f' of {of}' if of else ''}: {doing}")
            return
        bars = self._progress or self._start(elapsed=True)
        for title in ("stages", "")[len(bars.tasks) :]:
            bars.add_task(title, total=None)
        stages, steps = (task.id for task in bars.tasks)
        bars.update(stages, description=f"{self._part}stages", completed=number - 1, total=of)
        bars.reset(steps, description=doing, total=None)

    def step(self, done: int, total: int) -> None:
        """Show the finished training steps or answered examples, and their speed."""
        line = self._pace.line(done, total, time.monotonic())
        if self._progress is not None:
            stages, steps = (task.id for task in self._progress.tasks)
            self._progress.update(stages, completed=self._stages_done + done / total)
            self._progress.update(steps, completed=done, total=total)
        elif line:
            self._say(f"{self._clock()}   {line}")

    def smallest_margin(self, text: str) -> None:
        """Print the margin that the examples can show."""
        self._say(text)

    def note(self, text: str) -> None:
        """Print why something is done again."""
        self._say(note_line(f"{self._part}{text}"))

    def planned(self, text: str) -> None:
        """Print the digest of the plan, even if quiet: it is worth something only if it is published now."""
        self._say(text, aloud=True)


class _Pace:
    """Speed of one stage."""

    def __init__(self, began: float) -> None:
        self.shown = began
        self.first: tuple[int, float] | None = None
        """Work done at the first update, and its time: work left by an interrupted run is not counted."""

    def line(self, done: int, total: int, now: float) -> str:
        """`3 of 40, about 2 min left`, at the pace since the first update; empty within LINE_SECONDS of the line
        before, and at the end."""
        from gradience.reports.base.numbers import rough_duration

        self.first = self.first or (done, now)
        first, since = self.first
        if now - self.shown < LINE_SECONDS or done >= total:
            return ""
        self.shown = now
        if done <= first:
            return f"{done:,} of {total:,}"
        left = rough_duration((now - since) / (done - first) * (total - done))
        return f"{done:,} of {total:,}, about {left} left"
