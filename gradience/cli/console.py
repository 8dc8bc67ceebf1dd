"""Terminal output besides results: errors, hints, and the decision about color.

No rich here: it would cost start-up time.
"""

import os
import sys
from pathlib import Path
from typing import Any, TextIO

from gradience.errors import MAX_HINT_BYTES, MAX_MESSAGE_BYTES, shortened
from gradience.words import printable, visible

RED, BOLD, RESET = "\x1b[31m", "\x1b[1m", "\x1b[0m"


def wants_color(stream: TextIO) -> bool:
    """Return True if color helps: NO_COLOR (no-color.org) first, then FORCE_COLOR, then a real terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


class VisibleStream:
    """A stream on which no text can steer the terminal: warnings, logs and tracebacks of any library use it.

    What is safe already, our colors and bars in it, is written `beneath` it. A return to the start of the line is kept
    at the start of a text, where the bars of libraries have it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.beneath = stream

    def write(self, text: str) -> int:
        """Write `text`, every character of it visible."""
        start = "\r" if text.startswith("\r") else ""
        self.beneath.write(start + visible(text[len(start) :]))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)


def beneath(stream: TextIO) -> TextIO:
    """The stream that takes colors: the one under a VisibleStream, or `stream` itself."""
    below: TextIO = getattr(stream, "beneath", stream)
    return below


def show_error(message: str, hint: str = "") -> None:
    """Print `error: …`, an empty line and `hint: …` on stderr."""
    parts = [_labeled("error:", RED + BOLD, message, MAX_MESSAGE_BYTES)]
    if hint:
        parts.append(_labeled("hint:", BOLD, hint, MAX_HINT_BYTES))
    print("\n\n".join(parts), file=beneath(sys.stderr), flush=True)


def show_note(text: str) -> None:
    """Print `note: …` on stderr."""
    print(note_line(text), file=beneath(sys.stderr), flush=True)


def show_written(*values: object, label: str = "written") -> None:
    """Print `written: …` on stderr, on one line, every character of it visible."""
    print(f"{label}: {printable(', '.join(map(str, values)))}", file=beneath(sys.stderr), flush=True)


def show_root(folder: Path) -> None:
    """Print `root: …`, the digest of the whole folder, if there is one."""
    from gradience.files.digests import DIGESTS, root_of

    root = root_of(folder)
    if root is not None:
        show_written(f"{root} (sha256 of {folder / DIGESTS})", label="root")


def note_line(text: str) -> str:
    """Return `note: …` as stderr shows it."""
    return _labeled("note:", BOLD, text, MAX_MESSAGE_BYTES)


def _labeled(label: str, style: str, text: str, limit: int) -> str:
    """`label text`, every character of the text visible, and no more than `limit` bytes of it.

    Further lines are indented, so that a name with a newline in it cannot pose as a line of ours.
    """
    lines = visible(shortened(text, limit)).replace("\t", "    ").split("\n")
    body = ("\n" + " " * (len(label) + 1)).join(lines)
    shown = f"{style}{label}{RESET}" if wants_color(sys.stderr) else label
    return f"{shown} {shortened(body, limit)}"
