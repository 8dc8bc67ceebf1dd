"""A report that is drawn again and again in the same place of a terminal."""

from __future__ import annotations

import os
import shutil
import sys
from types import TracebackType
from typing import Self

from gradience.cli.console import beneath
from gradience.cli.output import drawable

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l"
"""The alternate screen, no cursor, no wrapping: what is drawn can neither scroll nor stay behind."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def can_redraw() -> bool:
    """Return whether standard output is a terminal that understands the sequences above."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb")


class Screen:
    """Context manager that restores the terminal on exit, also after an error."""

    def __enter__(self) -> Self:
        beneath(sys.stdout).write(ENTER)
        sys.stdout.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        beneath(sys.stdout).write(LEAVE)
        sys.stdout.flush()

    def draw(self, text: str) -> None:
        """Show `text` in place of what was shown; what does not fit is counted in the last row."""
        rows = shutil.get_terminal_size().lines
        lines = drawable(text).splitlines()
        if len(lines) > rows:
            more = f"... {len(lines) - rows + 1} more lines; all are printed when this ends (Ctrl-C)"
            lines = [*lines[: rows - 1], more]
        beneath(sys.stdout).write(HOME + "\r\n".join(row + CLEAR_LINE for row in lines) + CLEAR_BELOW)
        sys.stdout.flush()
