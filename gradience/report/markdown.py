"""A document as GitHub-flavoured Markdown. Nothing in it is markup but ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from gradience.report.blocks import (
    Bars,
    Block,
    Code,
    Column,
    Document,
    Facts,
    Heading,
    HeatMap,
    Inline,
    Mark,
    Note,
    Notes,
    Paragraph,
    Span,
    Table,
    spans,
)
from gradience.report.names import display_sentence, markdown_name, markdown_text

MARK_WORDS: dict[Mark, str] = {
    "good": "ok: ",
    "info": "note: ",
    "warning": "**warning**: ",
    "error": "**error**: ",
    "unknown": "unknown: ",
    "item": "",
}


def render(document: Document) -> str:
    """The document as Markdown that ends with a newline. All text in it is escaped."""
    return "\n\n".join(_block(block) for block in document) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading():
            title = f"{'#' * block.level} {_text(block.text)}"
            return f"{title}\n\n{_line(block.aside)}" if block.aside else title
        case Paragraph():
            return _line(block.text)
        case Notes():
            return "\n".join(map(_note, block.notes))
        case Facts():
            return "\n".join(f"- **{_text(label)}**: {_text(text)}" for label, text in block.facts)
        case Table():
            rows = [[_text(cell) for cell in row] for row in block.rows]
            return _pipes([_text(column.title) for column in block.columns], rows, _sides(block.columns))
        case Bars():
            rows = [[_text(bar.label), *map(_text, bar.figures)] for bar in block.bars]
            head = [_text(block.scale), *map(_text, block.titles)]
            return _pipes(head, rows, "<" + ">" * len(block.titles))
        case HeatMap():
            return _heat_map(block)
        case Code():
            return _code(block)


# ---------------------------------------------------------------- text


def _text(text: Inline) -> str:
    """The pieces of `text`, escaped: the one place for it."""
    return "".join(map(_span, spans(text)))


def _span(span: Span) -> str:
    if span.role == "name":
        return markdown_name(span.text)
    text = markdown_text(span.text)
    if span.role != "strong" or not text.strip():
        return text
    inner = text.strip()  # emphasis must begin and end with a character that is no blank
    return text.replace(inner, f"**{inner}**")


_BLOCK_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=]))")


def _line(text: Inline) -> str:
    """A line of its own, which begins no list, rule or block of code."""
    return _BLOCK_START.sub(r"\1\\", _text(text).strip())


def _note(note: Note) -> str:
    details = "".join(f"\n  - {_line(detail)}" for detail in note.details)
    return f"- {MARK_WORDS[note.mark]}{_line(note.text)}{details}"


# ---------------------------------------------------------------- tables and code


def _pipes(head: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> str:
    """A table; the cells are escaped already, and a row may end early."""
    rule = ["---:" if side == ">" else "---" for side in sides]
    full = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *full))


def _sides(columns: Iterable[Column]) -> str:
    return "".join(column.align for column in columns)


def _heat_map(heat: HeatMap) -> str:
    """The signs of a row in one cell; the head says which columns they are."""
    first, last = heat.indices[0], heat.indices[-1]
    head = [_text(heat.title), str(first) if first == last else f"{first} … {last}", *map(_text, heat.titles)]
    rows = [[_text(row.label), _text(tuple(row.cells)), *map(_text, row.figures)] for row in heat.rows]
    return _pipes(head, rows, "<<" + ">" * len(heat.titles))


def _code(code: Code) -> str:
    """A fence that is longer than any within."""
    lines = ["".join(display_sentence(span.text) for span in spans(line)) for line in code.lines]
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence + code.language, *lines, fence])
