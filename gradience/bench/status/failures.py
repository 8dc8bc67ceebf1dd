"""Why variants failed, by `run.log`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from gradience.bench.run.live import LOG
from gradience.reading import open_stream

LAST_BYTES = 2**20
"""Of a log, its end is read."""
LAST_LINES = 20
_HEAD = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+: ")
"""With what a line begins, where it does not go on with the one before."""
_FAILED = re.compile(r" ERROR gradience\.bench: seed \d+: (.+) failed$")


@dataclass(frozen=True, slots=True)
class LoggedFailure:
    """An error with its traceback, as the log has it."""

    variant: str
    """Or `probe`, or `calibration`."""
    moment: datetime
    lines: tuple[str, ...]
    """The last ones of the traceback."""

    @property
    def message(self) -> str:
        """The error itself: the last line that a traceback does not indent."""
        return next((line for line in reversed(self.lines) if line and not line.startswith(" ")), "")


def logged_failures(folder: Path) -> dict[str, LoggedFailure]:
    """Return the last failure of each variant that the log in the folder of a seed tells of."""
    failures: dict[str, LoggedFailure] = {}
    name, moment, lines = "", datetime.min, list[str]()
    for line in [*_last_lines(folder / LOG), None]:
        if line is not None and not _HEAD.match(line):
            lines.append(line)
            continue
        if name:
            failures[name] = LoggedFailure(name, moment, tuple(lines[-LAST_LINES:]))
        failed = _FAILED.search(line) if line is not None else None
        name, lines = failed[1] if failed else "", []
        if failed and line is not None:
            moment = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone()
    return failures


def _last_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with open_stream(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - LAST_BYTES))
        return file.read(LAST_BYTES).decode("utf-8", errors="replace").splitlines()
