"""Problems that are known and being mended: parts of their lines. Empty is the aim."""

from __future__ import annotations

from collections.abc import Iterable

KNOWN = (
    *(
        "signal 14",
        "MemoryError",
        "no next step: 'error: in/run.jsonl: not a regular file",
    ),  # files that are no files
    *("a message of", "names no file", "characters that steer"),  # messages
    *("OverflowError", "finite_number", " MB for "),  # numbers, and what a header claims
    *("AttributeError", "extra_forbidden", "RecursionError"),
)


def unknown(problems: Iterable[str]) -> list[str]:
    """The problems that nobody knows of yet."""
    return [problem for problem in problems if not any(part in problem for part in KNOWN)]
