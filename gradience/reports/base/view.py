"""Amount of detail shown of an artifact."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from gradience.reports.base.blocks import Block, Paragraph, Span, dim
from gradience.reports.base.numbers import count, plural


@dataclass(frozen=True, slots=True)
class View:
    """Amount of detail of a report; by default, that of a document."""

    brief: bool = False
    """Short lists, with the number of entries left out."""
    full: bool = False
    """Every module; for a run or a configuration, evidence and sources."""
    most: int | None = None
    """Number of modules with unused rank that an audit lists."""
    paths: tuple[str, ...] = ()
    """Paths as typed, for the next command."""
    width: int | None = None
    """Columns of the terminal; None for a document."""

    @property
    def is_screen(self) -> bool:
        """True for a screen, false for a document."""
        return self.brief or self.full

    @property
    def rest(self) -> str:
        """Return a pointer to the entries that a list leaves out."""
        return ": --layers" if self.brief else ""

    def path(self, place: int, default: str) -> str:
        """Return one of the paths for a command; the default if none was typed."""
        return shlex.quote(self.paths[place] if self.paths else default)

    def next_steps(self, *steps: str) -> list[Block]:
        """Return the line with the next commands and options; empty for a document."""
        return [Paragraph(("Next: ", Span(" · ".join(steps), "dim")))] if self.is_screen else []


DOCUMENT, SCREEN = View(), View(brief=True)


def first_names(names: Sequence[str], shown: int) -> tuple[str | Span, ...]:
    """Return the first of many names in a sentence: `a, b and 3 more`."""
    parts = [part for name in names[:shown] for part in (Span(name, "name"), ", ")][:-1]
    hidden = len(names) - shown
    return (*parts, f" and {count(hidden)} more") if hidden > 0 else tuple(parts)


def more(number: int, singular: str, where: str = "", many: str | None = None) -> list[Block]:
    """Return the number of entries left out, and a pointer to them; empty if there are none."""
    if number <= 0:
        return []
    return [dim(f"… {plural(number, singular, many)}{where}")]
