"""A document as one piece of HTML: for a notebook, or to paste. No script, no style, no remote resource: the colours
are those of the page around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.report.blocks import (
    Bars,
    Block,
    Code,
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
from gradience.report.names import html_name, html_text

MARK_WORDS: dict[Mark, str] = {
    "good": "",
    "info": "",
    "warning": "<strong>warning:</strong> ",
    "error": "<strong>error:</strong> ",
    "unknown": "unknown: ",
    "item": "",
}


def render(document: Document) -> str:
    """The document as a `<div>`. All text in it is escaped."""
    return f'<div class="gradience">{"".join(map(_block, document))}</div>'


def _block(block: Block) -> str:
    match block:
        case Heading():
            tag = f"h{block.level + 2}"  # a notebook has headings of its own above
            aside = f"<p>{_text(block.aside)}</p>" if block.aside else ""
            return f"<{tag}>{_text(block.text)}</{tag}>{aside}"
        case Paragraph():
            return f"<p>{_text(block.text)}</p>"
        case Notes():
            return f"<ul>{''.join(map(_note, block.notes))}</ul>"
        case Facts():
            return _table([], [[_text(label), _text(text)] for label, text in block.facts])
        case Table():
            head = [_text(column.title) for column in block.columns]
            return _table(head, [[_text(cell) for cell in row] for row in block.rows])
        case Bars():
            head = [_text(block.scale), *map(_text, block.titles)]
            return _table(head, [[_text(bar.label), *map(_text, bar.figures)] for bar in block.bars])
        case HeatMap():
            return _heat_map(block)
        case Code():
            lines = "\n".join(map(_text, block.lines))
            return f"<pre>{lines}</pre>"


# ---------------------------------------------------------------- text


def _text(text: Inline) -> str:
    """The pieces of `text`, escaped: the one place for it."""
    return "".join(map(_span, spans(text)))


def _span(span: Span) -> str:
    if span.role == "name":
        return html_name(span.text)
    text = html_text(span.text)
    return f"<strong>{text}</strong>" if span.role == "strong" and text else text


def _note(note: Note) -> str:
    details = "".join(f"<br>{_text(detail)}" for detail in note.details)
    return f"<li>{MARK_WORDS[note.mark]}{_text(note.text)}{details}</li>"


# ---------------------------------------------------------------- tables


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are escaped already. The first column is a row header."""
    titles = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    top = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f"<table>{top}<tbody>{body}</tbody></table>"


def _heat_map(heat: HeatMap) -> str:
    """The signs of a row in one cell; the head says which columns they are."""
    first, last = heat.indices[0], heat.indices[-1]
    head = [_text(heat.title), str(first) if first == last else f"{first} … {last}", *map(_text, heat.titles)]
    rows = [
        [_text(row.label), f"<code>{_text(tuple(row.cells))}</code>", *map(_text, row.figures)]
        for row in heat.rows
    ]
    return _table(head, rows)
