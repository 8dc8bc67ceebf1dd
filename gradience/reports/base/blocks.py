"""The blocks of a report: a document is a sequence of blocks, and each renderer draws every kind of block.

Blocks contain plain text, never markup: a name of a module or a file is a `Span` with the role `name`, and every
renderer escapes all text in one place. Renderers decide how roles and marks look, so the text must be complete without
them.
"""

import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeVar

from gradience.reports.base.numbers import count, plural

T = TypeVar("T")

Style = Literal[
    "", "strong", "dim", "name", "quote", "good", "info", "warn", "bad",
    "heat1", "heat2", "heat3", "heat4", "heat5", "heat6", "heat7", "heat8",
]  # fmt: skip
"""Style of a piece of text. `name`: a name that somebody else chose. `quote`: an example's text, whose line breaks a
page keeps. `heat1` … `heat8`: levels of a heat map."""

Tone = Literal["", "good", "warn", "bad", "dim"]
"""The styles that have a meaning in a plot as well; a series without a tone takes the next color."""

Mark = Literal["good", "info", "warning", "error", "unknown", "item"]
"""The kind of a note; `item` is a plain list item."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of text with a style."""

    text: str
    role: Style = ""


Inline = str | Span | tuple[str | Span, ...]
"""Text within a line: plain, styled, or pieces of both."""
Fact = tuple[str, Inline]
"""A label with its text."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A title (level 1, one per document or part of a document) or a section heading (level 2)."""

    text: Inline
    level: Literal[1, 2] = 2
    aside: Inline = ""
    """Text beside the heading if there is room, otherwise below it."""
    folded: bool = False
    """True for a section to look things up in: a page folds it."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences, wrapped between words."""

    text: Inline


@dataclass(frozen=True, slots=True)
class Note:
    """One statement with its mark, and details below it (a hint, a source)."""

    mark: Mark
    text: Inline
    details: Sequence[Inline] = ()


@dataclass(frozen=True, slots=True)
class Notes:
    """A list of statements."""

    notes: Sequence[Note]


@dataclass(frozen=True, slots=True)
class Facts:
    """Labels with their texts: (label, text)."""

    facts: Sequence[Fact]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: Inline = ""
    align: Literal["<", ">"] = "<"
    wrap: bool = False
    """The cells are sentences and may take several lines; other cells are never broken and never cut."""
    drop: int = 0
    """Order in which columns are left out of a narrow terminal: 1 goes first; 0 always stays. Files have
    every column."""
    shown: bool = True
    """False: `table_of` leaves it out."""
    drawing: bool = False
    """True for signs that form a picture: HTML leaves them out, because its plot shows the same."""
    legend: str = ""
    """Meaning of the column, for `legend_of`."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells; a row may end early. A terminal may shorten a cell that is one span of role `name`, as
    long as no two different names of the column look the same."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Inline]]


def table_of(rows: Iterable[T], *fields: tuple[Column, Callable[[T], Inline]]) -> Table:
    """Return a table of columns that are shown, each with the function that makes its cell of a row."""
    shown = [(column, cell) for column, cell in fields if column.shown]
    return Table([column for column, _ in shown], [[cell(row) for _, cell in shown] for row in rows])


def legend_of(table: Table) -> list[Fact]:
    """Return the titles of the columns that have a legend, each with it."""
    return [(str(column.title), column.legend) for column in table.columns if column.legend]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines shown unchanged, to copy."""

    lines: Sequence[Inline]
    language: str = ""


Block = Heading | Paragraph | Notes | Facts | Table | Code
Document = Sequence[Block]


def spans(text: Inline) -> tuple[Span, ...]:
    """Return the pieces of `text`, each as a span."""
    parts = text if isinstance(text, tuple) else (text,)
    return tuple(part if isinstance(part, Span) else Span(part) for part in parts)


def filled(document: Document) -> list[Block]:
    """Return the blocks that have content: no empty list or table, and no heading of a section that begins with one."""
    kept = []
    for block, after in zip(document, [*document[1:], Heading("")], strict=True):
        is_section = isinstance(block, Heading) and block.level > 1
        if not (_is_empty(block) or (is_section and (isinstance(after, Heading) or _is_empty(after)))):
            kept.append(block)
    return kept


def _is_empty(block: Block) -> bool:
    match block:
        case Notes(entries) | Facts(entries) | Table(_, entries) | Code(entries):
            return not entries
        case _:
            return False


def warned(texts: Iterable[Inline]) -> Notes:
    """Return a list of warnings."""
    return Notes([Note("warning", text) for text in texts])


def dim(text: str) -> Paragraph:
    """Return sentences of less weight, such as the legend of a table."""
    return Paragraph(Span(text, "dim"))


def items(texts: Iterable[Inline]) -> Notes:
    """Return a plain list."""
    return Notes([Note("item", text) for text in texts])


EIGHTHS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> Span:
    """Return one row of at most `width` blocks, each the mean of neighbors; a flat series is a row of low blocks."""
    columns = min(width, len(values))
    edges = [round(i * len(values) / columns) for i in range(columns + 1)] if columns else []
    shown = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    span = high - low
    blocks = (EIGHTHS[round(7 * (value - low) / span)] if span > 0 else EIGHTHS[0] for value in shown)
    return Span("".join(blocks), "info")


# ---------------------------------------------------------------- amount of detail


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
