"""Problems that are known and being mended: parts of their lines. Empty is the aim."""

from __future__ import annotations

from collections.abc import Iterable

KNOWN: tuple[str, ...] = ()


def unknown(problems: Iterable[str]) -> list[str]:
    """The problems that nobody knows of yet."""
    return [problem for problem in problems if not any(part in problem for part in KNOWN)]
