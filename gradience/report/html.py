"""A document as one piece of HTML: for a notebook, or to paste. No script, no style, no remote resource: the colours
are those of the page around it."""

from __future__ import annotations

from gradience.report import blocks
from gradience.report.blocks import Block, Document, Inline, Mark, Note, Span, Table, figures_of, spans
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
        case blocks.Heading():
            tag = f"h{block.level + 2}"  # a notebook has headings of its own above
            aside = f"<p>{_text(block.aside)}</p>" if block.aside else ""
            return f"<{tag}>{_text(block.text)}</{tag}>{aside}"
        case blocks.Paragraph():
            return f"<p>{_text(block.text)}</p>"
        case blocks.Notes():
            return f"<ul>{''.join(map(_note, block.notes))}</ul>"
        case blocks.Facts():
            return _table(Table([], block.facts))
        case Table():
            return _table(block)
        case blocks.Bars() | blocks.HeatMap():
            return _table(figures_of(block))
        case blocks.Code():
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


def _table(table: Table) -> str:
    """A table without head where no column has a title. The first cell of a row is its header."""
    titles = "".join(f'<th scope="col">{_text(column.title)}</th>' for column in table.columns)
    head = f"<thead><tr>{titles}</tr></thead>" if any(column.title for column in table.columns) else ""
    body = "".join(
        f'<tr><th scope="row">{_text(row[0])}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in row[1:])}</tr>'
        for row in table.rows
    )
    return f"<table>{head}<tbody>{body}</tbody></table>"
