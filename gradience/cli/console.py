"""What goes to the terminal besides results: errors, hints, colour. No rich here, it would cost start-up time."""

from __future__ import annotations

import os
import sys
import unicodedata
from typing import TextIO

RED, BOLD, RESET = "\x1b[31m", "\x1b[1m", "\x1b[0m"

_KEPT = {"\n", "\t"}
_UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Control, format (bidirectional overrides), surrogate, private, unassigned, line separators."""


def printable(text: str) -> str:
    r"""`text` with everything that could steer a terminal written out, as in `\x1b[31m`.

    Names of files, modules and tensors come from strangers; newlines and tabs are kept.
    """
    return "".join(
        character
        if character in _KEPT or unicodedata.category(character) not in _UNSAFE_CATEGORIES
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )


def wants_colour(stream: TextIO) -> bool:
    """True where colour helps: NO_COLOR (https://no-color.org) and FORCE_COLOR first, then a real terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def show_error(message: str, hint: str = "") -> None:
    """`error: …`, an empty line and `hint: …` on stderr."""
    parts = [_labelled("error:", RED + BOLD, message)]
    if hint:
        parts.append(_labelled("hint:", BOLD, hint))
    print("\n\n".join(parts), file=sys.stderr, flush=True)


def _labelled(label: str, style: str, text: str) -> str:
    """`label text`; further lines are indented, so that a name with a newline cannot pose as a line of ours."""
    body = printable(text).replace("\n", "\n" + " " * (len(label) + 1))
    if wants_colour(sys.stderr):
        label = f"{style}{label}{RESET}"
    return f"{label} {body}"
