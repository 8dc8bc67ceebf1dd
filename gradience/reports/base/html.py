"""A document as one HTML fragment, for a notebook or to paste.

It has no script, style or remote resource: the colors are those of the page around it."""

from collections.abc import Sequence

from gradience.reports.base import blocks
from gradience.reports.base.blocks import Block, Column, Document, Inline, Mark, Note, Span, Table, spans
from gradience.reports.base.names import html_name, html_text

MARK_WORDS: dict[Mark, str] = {"warning": "<strong>warning:</strong> ", "error": "<strong>error:</strong> "}
SENTENCES = (Column(), Column(wrap=True))
"""The columns of facts: labels and texts."""


def render(document: Document) -> str:
    """Return the document as a `<div>`. All text in it is escaped."""
    return f'<div class="gradience">{"".join(map(block, blocks.filled(document)))}</div>'


def block(shown: Block) -> str:
    """Return one block as HTML. All text in it is escaped."""
    match shown:
        case blocks.Heading():
            tag = f"h{shown.level + 2}"  # h1 and h2 are left to the notebook
            aside = f"<p>{inline(shown.aside)}</p>" if shown.aside else ""
            return f"<{tag}>{inline(shown.text)}</{tag}>{aside}"
        case blocks.Paragraph():
            return f"<p>{inline(shown.text)}</p>"
        case blocks.Notes():
            return f"<ul>{''.join(map(_note, shown.notes))}</ul>"
        case blocks.Facts():
            return _table(Table(SENTENCES, shown.facts))
        case Table():
            return _table(shown)
        case blocks.Code():
            lines = "\n".join(map(inline, shown.lines))
            return f"<pre>{lines}</pre>"


# ---------------------------------------------------------------- text


def inline(text: Inline) -> str:
    """Return the pieces of `text`, escaped. All text is escaped here."""
    return "".join(map(_span, spans(text)))


def _span(span: Span) -> str:
    if span.role == "quote":
        return "<br>".join(f"<bdi>{html_text(line)}</bdi>" for line in span.text.split("\n"))
    text = html_name(span.text) if span.role == "name" else html_text(span.text)
    if span.role == "strong" and text:
        text = f"<strong>{text}</strong>"
    return text


def _note(note: Note) -> str:
    details = "".join(f"<br>{inline(detail)}" for detail in note.details)
    return f'<li class="{note.mark}">{MARK_WORDS.get(note.mark, "")}{inline(note.text)}{details}</li>'


def _table(table: Table) -> str:
    """Return a table without its drawings, and without a head if no column has a title. The first cell of a row is its
    header.

    Its classes name the columns of numbers, `n2` for the second, and those of sentences, `s2`: a page that has a style
    aligns the former to the right and breaks the latter.
    """
    columns = [column for column in table.columns if not column.drawing]
    titles = "".join(f'<th scope="col">{inline(column.title)}</th>' for column in columns)
    head = f"<thead><tr>{titles}</tr></thead>" if any(column.title for column in columns) else ""
    body = "".join(_row(row, table.columns) for row in table.rows)
    kinds = ["n" if column.align == ">" else "s" if column.wrap else "" for column in columns]
    named = " ".join(f"{kind}{place}" for place, kind in enumerate(kinds, start=1) if kind)
    kind = f' class="{named}"' if named else ""
    return f"<table{kind}>{head}<tbody>{body}</tbody></table>"


def _row(cells: Sequence[Inline], columns: Sequence[Column]) -> str:
    """Return a row: missing cells of a shorter row are empty."""
    whole = [*cells, *[""] * (len(columns) - len(cells))]
    first, *rest = (inline(cell) for column, cell in zip(columns, whole, strict=True) if not column.drawing)
    return f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
