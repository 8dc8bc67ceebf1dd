"""Amount of detail shown of an artifact."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gradience.reports.base.blocks import Block, Span, dim
from gradience.reports.base.numbers import count, plural


@dataclass(frozen=True, slots=True)
class View:
    """Amount of detail in the sections of a report; by default, that of a document."""

    brief: bool = False
    """Short lists, with the number of entries left out."""
    layers: bool = False
    """Every module, one row each."""
    paths: tuple[str, ...] = field(default=(), kw_only=True)
    """Paths as typed, for the next command."""

    @property
    def rest(self) -> str:
        """Return a pointer to the entries that a list leaves out."""
        return ": --layers" if self.brief else ""


DOCUMENT = View()


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
