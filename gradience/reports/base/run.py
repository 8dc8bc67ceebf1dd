"""The `run` block of an artifact: the only part that may differ between two runs on the same input."""

import os
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from gradience import __version__
from gradience.files.artifact import Part


class RunInfo(Part):
    """The only part that may differ between two runs on the same input."""

    gradience_version: str
    command: str
    started: str
    """UTC, ISO 8601."""
    seconds: float
    python: str
    numpy: str
    platform: str
    cpu_count: int


@dataclass(frozen=True)
class Stopwatch:
    """A stopwatch that starts when it is created. The wall clock is only a label; durations use the monotonic clock."""

    command: str = ""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.perf_counter)

    def run_info(self) -> RunInfo:
        """Return command, times, versions and host facts."""
        return RunInfo(
            gradience_version=__version__,
            command=self.command,
            started=self.started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self.clock, 3),
            python=platform.python_version(),
            numpy=np.__version__,
            platform=platform.platform(),
            cpu_count=os.cpu_count() or 1,
        )
