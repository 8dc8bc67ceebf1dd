"""What a command said last, by its log: the reason of an end of which nothing stands in the storage."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from gradience.bench.run.due import LAST_LINES
from gradience.reading import open_stream
from gradience.words import visible

ERROR = "error: "
"""How a line of a stage begins that says why it failed; a hint comes after it."""


def last_lines(log: Path) -> tuple[str, ...]:
    """Return the last lines of a log; none where this machine does not see it."""
    if not log.is_file():
        return ()
    with open_stream(log) as file:
        last = deque(file, LAST_LINES)
    return tuple(visible(line.decode(errors="replace").rstrip()) for line in last)


def last_words(log: Path) -> str:
    """Return the line of a log that says why its command ended, or where to look for it, as the end of a sentence."""
    lines = [line for line in last_lines(log) if line]
    errors = [line for line in lines if line.startswith(ERROR)]
    if not lines:
        return f"; nothing of its log is seen from here: look at {log} on the machine that ran it"
    return f"; its log ends with: {(errors or lines)[-1]}"
