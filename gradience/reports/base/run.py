"""Parts of many reports: the run, and the commit on the hub that an adapter was read from.

Only the run may differ between two reports on the same input.
"""

import os
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from gradience import __version__
from gradience.files.artifact import Part
from gradience.files.hub import HubCommit


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


class HubSource(Part):
    """A commit of a repository on the hub."""

    repo: str
    """`org/name`."""
    revision: str | None = None
    """The requested branch, tag or commit; null for the default branch."""
    commit: str
    """The commit that was read."""
    inside: str = ""
    """The folder or file of the repository; empty for its root."""


def commit_of(source: HubSource | None) -> list[str]:
    """Return `commit 0123456789ab` for a screen; empty for an adapter on disk."""
    return [] if source is None else [f"commit {source.commit[:12]}"]


def hub_source(source: HubCommit | None) -> HubSource | None:
    """Return the source of an adapter as a part of an artifact; None for an adapter on disk."""
    if source is None:
        return None
    address = source.address
    return HubSource(
        repo=address.repo, revision=address.revision, commit=source.commit, inside=address.inside
    )
