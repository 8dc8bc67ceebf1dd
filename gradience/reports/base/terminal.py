"""A document as text for a terminal, with or without color.

Sentences wrap between words, at 100 columns at most for legibility; tables use the full width of the terminal. The text
depends only on the arguments, not on the environment or a real terminal.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from gradience.reports.base import blocks
from gradience.reports.base.blocks import Block, Column, Document, Inline, Mark, Span, Style, Table, spans
from gradience.reports.base.names import cells, display_name, display_sentence, fit_names

Line = list[Span]
"""The pieces of a line or cell, from left to right."""

MIN_WIDTH, DEFAULT_WIDTH, MAX_TEXT = 60, 80, 100
INDENT = 2
LEAST_NAME, LEAST_SENTENCES = 20, 24
"""Minimum columns of a name and of a column of sentences in a narrow terminal."""
UNLIMITED = 1_000_000
HEAT = (26, 32, 37, 35, 106, 178, 208, 196)
"""Colors of a heat map, from none to all of the rank: mid tones that are readable on light and dark backgrounds."""
STYLES = {
    "strong": "bold",
    "dim": "dim",
    "name": "cyan",
    "good": "green",
    "info": "blue",
    "warn": "yellow",
    "bad": "bold red",
    **{f"heat{level}": f"color({color})" for level, color in enumerate(HEAT, start=1)},
}
MARKS: dict[Mark, Span] = {
    "good": Span("✓", "good"),
    "info": Span("·", "dim"),
    "warning": Span("!", "warn"),
    "error": Span("✗", "bad"),
    "unknown": Span("?", "dim"),
    "item": Span("·", "dim"),
}


def render(document: Document, *, width: int | None = None, color: bool = False) -> str:
    """Return the document as lines, each ended by a newline. Sections have an empty line before them.

    width: columns of the terminal; at least 60 are used. None, for a file or a pipe: sentences wrap at 80 columns, and
    tables have their natural width; no word, such as a path, is broken.
    """
    lines: list[str] = []
    indent = 0
    columns = UNLIMITED if width is None else max(MIN_WIDTH, width)
    for block in blocks.filled(document):
        at = 0 if isinstance(block, blocks.Heading) else indent
        if isinstance(block, blocks.Heading):
            lines += [""] if lines else []
            indent = INDENT if block.level > 1 else 0
        text = min(columns, DEFAULT_WIDTH if width is None else MAX_TEXT)
        room = columns if width is None else columns - at
        for line in _lines(block, room, text - at):
            drawn = (_colored(line) if color else _plain(line)).rstrip(" ")
            lines.append(" " * at + drawn if drawn else "")
    return "".join(f"{line}\n" for line in lines)


def _lines(block: Block, room: int, text: int) -> list[Line]:
    """Return the lines of a block. room: columns for tables; text: for sentences."""
    match block:
        case blocks.Heading():
            aside = [Span("  "), *_safe(block.aside, "dim")] if block.aside else []
            return _wrapped([*_safe(block.text, "strong"), *aside], text, room)
        case blocks.Paragraph():
            return _wrapped(_safe(block.text), text, room)
        case blocks.Notes():
            rows = []
            for note in block.notes:
                rows.append((_safe(MARKS[note.mark]), _safe(note.text)))
                rows += [([Span("")], _safe(detail, "dim")) for detail in note.details]
            return _beside(rows, room, text, gap=1)
        case blocks.Facts():
            facts = [(_safe(label, "dim"), _safe(words)) for label, words in block.facts]
            return _beside(facts, room, text, gap=2)
        case Table():
            return _table(block, room, text)
        case blocks.Code():
            return [_safe(line) for line in block.lines]


# ---------------------------------------------------------------- text


def _safe(text: Inline, role: Style = "") -> Line:
    """Return the pieces of `text` with every invisible character written out: the only place that does this.

    role: the role of pieces without one.
    """
    return [
        Span(
            display_name(span.text) if span.role == "name" else display_sentence(span.text), span.role or role
        )
        for span in spans(text)
    ]


def _plain(safe: Sequence[Span]) -> str:
    return "".join(span.text for span in safe)


def _width(safe: Sequence[Span]) -> int:
    return sum(cells(span.text) for span in safe)


_WORD = re.compile(r"\s*\S+\s*")


def _wrapped(safe: Line, width: int, room: int) -> list[Line]:
    """Return lines of at most `width` columns, broken between words; a longer word starts a line and is broken, unless
    `room` is unlimited."""
    if _width(safe) <= width:
        return [safe]
    text, longest = _plain(safe), UNLIMITED if room == UNLIMITED else width
    starts, used = [0], 0
    for match in _WORD.finditer(text):
        word = match[0].rstrip()
        if used + cells(word) > width:
            starts += [match.start()] if match.start() else []
            used = 0
            for place, sign in enumerate(word, match.start()):
                if used + cells(sign) > longest:
                    starts.append(place)
                    used = 0
                used += cells(sign)
            used += len(match[0]) - len(word)
        else:
            used += cells(match[0])
    ends = [*starts[1:], len(text)]
    return [
        _slice(safe, start, start + len(text[start:end].rstrip()))
        for start, end in zip(starts, ends, strict=True)
    ]


def _slice(safe: Line, start: int, end: int) -> Line:
    pieces, at = [], 0
    for span in safe:
        pieces.append(Span(span.text[max(0, start - at) : max(0, end - at)], span.role))
        at += len(span.text)
    return pieces


def _colored(safe: Line) -> str:
    """Return the pieces with their color codes, for a terminal of 256 colors."""
    from rich.color import ColorSystem
    from rich.style import Style

    return "".join(
        Style.parse(STYLES.get(span.role, "")).render(span.text, color_system=ColorSystem.EIGHT_BIT)
        for span in safe
    )


def _beside(rows: Sequence[tuple[Line, Line]], room: int, text: int, gap: int) -> list[Line]:
    """Return marks or labels in a column, with the sentences beside them."""
    first, second = (_measured(Column(wrap=True), [row[i] for row in rows]) for i in range(2))
    first.least = min(first.width, (text - gap) // 2)
    second.least = min(second.width, text - gap - first.least)
    return _aligned([first, second], room, gap)


# ---------------------------------------------------------------- tables


def _table(table: Table, room: int, text: int) -> list[Line]:
    """Return the columns that fit, aligned, then the names of those left out. Figures are never broken or cut."""
    rows = [[_safe(cell) for cell in row] for row in table.rows]
    if any(column.title for column in table.columns):
        titles = [_safe(column.title) for column in table.columns]
        rows.insert(0, [[Span(span.text, span.role or "dim") for span in title] for title in titles])
    rows = [[*row, *[[Span("")]] * (len(table.columns) - len(row))] for row in rows]
    columns = [_measured(column, [row[i] for row in rows]) for i, column in enumerate(table.columns)]
    kept = _kept(columns, room)
    gap = 2 if _total([column.width for column in kept], 2) <= room else 1
    _share([column for column in kept if column.is_name], kept, room, gap)
    _share([column for column in kept if column.column.wrap], kept, min(room, text), gap)
    left_out = [_plain(column.cells[0]) for column in columns if column not in kept and column.column.title]
    note = _safe(Span(f"not shown at this width: {', '.join(left_out)}", "dim"))
    return _aligned(kept, room, gap) + (_wrapped(note, text, room) if left_out else [])


@dataclass(slots=True, eq=False)
class _Measured:
    """A column, its cells from the title down, its natural width, and its assigned width."""

    column: Column
    cells: list[list[Span]]
    is_name: bool
    width: int
    least: int


def _measured(column: Column, cells: list[list[Span]]) -> _Measured:
    width = max(map(_width, cells), default=0)
    is_name = any(_is_name(cell) for cell in cells)
    least = LEAST_NAME if is_name else LEAST_SENTENCES if column.wrap else width
    return _Measured(column, cells, is_name, width, min(width, least))


def _is_name(cell: Sequence[Span]) -> bool:
    return len(cell) == 1 and cell[0].role == "name"


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1)


def _kept(columns: Sequence[_Measured], room: int) -> list[_Measured]:
    """Return the columns that are shown in `room`."""
    kept = list(columns)
    for column in sorted((column for column in columns if column.column.drop), key=lambda c: c.column.drop):
        if _total([other.least for other in kept], 1) <= room:
            break
        kept.remove(column)
    return kept


def _share(some: Sequence[_Measured], kept: Sequence[_Measured], room: int, gap: int) -> None:
    """Give the remaining room to the columns of `some`; names that are still too long are shortened."""
    for column in some:
        spare = room - _total([other.least for other in kept], gap)
        column.least = max(column.least, min(column.width, column.least + spare))
        if column.is_name:
            names = [cell[0].text for cell in column.cells if _is_name(cell)]
            shown = iter(fit_names(names, column.least))
            column.cells = [[Span(next(shown), "name")] if _is_name(cell) else cell for cell in column.cells]
            column.least = max(map(_width, column.cells))


def _aligned(columns: Sequence[_Measured], room: int, gap: int) -> list[Line]:
    """Return rows of cells, each with as many lines as its longest cell needs."""
    lines: list[Line] = []
    for row in zip(*(column.cells for column in columns), strict=True):
        wrapped = [_wrapped(cell, column.least, room) for column, cell in zip(columns, row, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=[]):
            line: Line = []
            for column, part in zip(columns, parts, strict=True):
                blank = Span(" " * (column.least - _width(part)))
                line += [blank, *part] if column.column.align == ">" else [*part, blank]
                line.append(Span(" " * gap))
            lines.append(line[:-1])
    return lines
