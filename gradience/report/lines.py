"""Styled lines -> terminal text, with or without colour. Data never becomes markup.

A line is a list of spans, a span is a text with a style name. Everything a reader needs is in the text;
styles only underline it, so that the output without colour says the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from gradience.report.names import cells, fit, fit_names, printable

__all__ = ["cells", "fit", "fit_names"]

STYLES = {
    "": "",
    "heading": "bold",
    "strong": "bold",
    "dim": "dim",
    "name": "cyan",
    "good": "green",
    "warn": "yellow",
    "bad": "bold red",
    "info": "blue",
    # Bars: one hue, the nearer to the typical module the stronger.
    "bar1": "color(37)",
    "bar2": "color(31)",
    "bar3": "color(24)",
    # From nothing to all of the rank, mid tones that hold on light and on dark backgrounds.
    "heat1": "color(26)",
    "heat2": "color(32)",
    "heat3": "color(37)",
    "heat4": "color(35)",
    "heat5": "color(106)",
    "heat6": "color(178)",
    "heat7": "color(208)",
    "heat8": "color(196)",
}


class Span(NamedTuple):
    """A piece of a line."""

    text: str
    style: str = ""


Line = list[Span]


def line(*parts: str | Span) -> Line:
    """A line from plain strings and spans."""
    return [part if isinstance(part, Span) else Span(part) for part in parts]


def line_cells(spans: Iterable[Span]) -> int:
    return sum(cells(span.text) for span in spans)


def line_text(spans: Iterable[Span]) -> str:
    return "".join(span.text for span in spans)


def pad(span: Span, width: int, align: str) -> Line:
    """The span and the blanks that bring it to `width` columns; align is `<` or `>`."""
    blanks = Span(" " * max(0, width - cells(span.text)))
    return [span, blanks] if align == "<" else [blanks, span]


Cell = str | Span


def text_of(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text


def columns(
    rows: Sequence[Sequence[Cell]],
    align: str,
    *,
    indent: int = 2,
    gap: int = 2,
    widths: Sequence[int] = (),
) -> list[Line]:
    """Rows as aligned columns. align: one `<` or `>` a column; widths: smallest width of each column."""
    wide = [
        max([cells(text_of(row[i])) for row in rows if i < len(row)] + list(widths[i : i + 1]), default=0)
        for i in range(len(align))
    ]
    lines = []
    for row in rows:
        out: Line = [Span(" " * indent)]
        for i, cell in enumerate(row):
            out += [Span(" " * gap)] if i else []
            out += pad(cell if isinstance(cell, Span) else Span(cell), wide[i], align[i])
        lines.append(strip_end(out))
    return lines


def columns_width(rows: Sequence[Sequence[Cell]], *, gap: int) -> int:
    """What `columns` needs for these cells, with a gap before each: the room that is not left for a first column."""
    number = max(map(len, rows), default=0)
    return sum(gap + max(cells(text_of(row[i])) for row in rows if i < len(row)) for i in range(number))


def strip_end(spans: Line) -> Line:
    """Without blanks at the end of the line."""
    while spans and not spans[-1].text.rstrip():
        spans = spans[:-1]
    return [*spans[:-1], Span(spans[-1].text.rstrip(), spans[-1].style)] if spans else []


def paragraph(
    text: str, width: int, *, first: Line | None = None, indent: int = 2, style: str = ""
) -> list[Line]:
    """`text` wrapped to `width` columns; the first line starts with the spans of `first` in place of blanks."""
    start = first if first is not None else [Span(" " * indent)]
    room = width - indent
    lines: list[Line] = []
    for number, piece in enumerate(wrap(text, room)):
        head = start if number == 0 else [Span(" " * indent)]
        lines.append(strip_end([*head, Span(piece, style)]))
    return lines


def wrap(text: str, width: int) -> list[str]:
    """Words of `text` in lines of at most `width` columns; a longer word is broken."""
    lines, current = [], ""
    for word in text.split():
        while cells(word) > width:
            head, word = _break(word, width)
            lines += [current] if current else []
            lines.append(head)
            current = ""
        joined = f"{current} {word}" if current else word
        if cells(joined) > width:
            lines.append(current)
            current = word
        else:
            current = joined
    return [*lines, current] if current or not lines else lines


def _break(word: str, width: int) -> tuple[str, str]:
    """The longest start of `word` that fits, and the rest."""
    used = 0
    for position, character in enumerate(word):
        used += cells(character)
        if used > width:
            return word[:position], word[position:]
    return word, ""


def render(lines: Iterable[Line], *, color: bool) -> str:
    """Lines as one text that ends with a newline. Depends on nothing but its arguments.

    Every span passes `printable` once more here: no forgotten escape can reach a terminal.
    """
    if not color:
        return "".join("".join(printable(span.text) for span in spans) + "\n" for spans in lines)
    from rich.console import Console
    from rich.text import Text

    out = io.StringIO()
    console = Console(
        file=out,
        color_system="256",
        force_terminal=True,
        no_color=False,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
        _environ={},
    )
    for spans in lines:
        text = Text.assemble(*((printable(span.text), STYLES[span.style]) for span in spans))
        console.print(text, soft_wrap=True)
    return out.getvalue()
