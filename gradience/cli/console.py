"""What goes to the terminal besides results: errors, hints, and the decision about colour.

No rich here: it would cost start-up time.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from gradience.errors import MAX_HINT_BYTES, MAX_MESSAGE_BYTES, shortened

RED, BOLD, RESET = "\x1b[31m", "\x1b[1m", "\x1b[0m"


def wants_colour(stream: TextIO) -> bool:
    """Return True where colour helps: NO_COLOR (no-color.org) first, then FORCE_COLOR, then a real terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def show_error(message: str, hint: str = "") -> None:
    """Print `error: …`, an empty line and `hint: …` on stderr."""
    parts = [_labelled("error:", RED + BOLD, message, MAX_MESSAGE_BYTES)]
    if hint:
        parts.append(_labelled("hint:", BOLD, hint, MAX_HINT_BYTES))
    print("\n\n".join(parts), file=sys.stderr, flush=True)


def show_note(text: str) -> None:
    """Print `note: …` on stderr."""
    print(note_line(text), file=sys.stderr, flush=True)


def note_line(text: str) -> str:
    """Return `note: …` as stderr shows it."""
    return _labelled("note:", BOLD, text, MAX_MESSAGE_BYTES)


def _labelled(label: str, style: str, text: str, limit: int) -> str:
    """`label text`, every character of the text visible, and no more than `limit` bytes of it.

    Further lines are indented, so that a name with a newline in it cannot pose as a line of ours.
    """
    from gradience.report.names import printable

    text = shortened(text, limit)
    lines = [printable(line.replace("\t", "    ")) for line in text.split("\n")]
    body = ("\n" + " " * (len(label) + 1)).join(lines)
    shown = f"{style}{label}{RESET}" if wants_colour(sys.stderr) else label
    return f"{shown} {shortened(body, limit)}"
