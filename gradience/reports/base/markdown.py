"""A document as GitHub-flavoured Markdown. The only markup in it is ours."""

import re

from gradience.reports.base import blocks
from gradience.reports.base.names import display_sentence, markdown_name, markdown_text

MARK_WORDS: dict[blocks.Mark, str] = {
    "good": "ok: ",
    "info": "note: ",
    "warning": "**warning**: ",
    "error": "**error**: ",
}


def render(document: blocks.Document) -> str:
    """Return the document as Markdown that ends with a newline. All text in it is escaped."""
    return "\n\n".join(map(_block, blocks.filled(document))) + "\n"


def _block(block: blocks.Block) -> str:
    match block:
        case blocks.Heading():
            title = f"{'#' * block.level} {_text(block.text)}"
            return f"{title}\n\n{_line(block.aside)}" if block.aside else title
        case blocks.Paragraph():
            return _line(block.text)
        case blocks.Notes():
            return "\n".join(map(_note, block.notes))
        case blocks.Facts():
            return "\n".join(f"- **{_text(label)}**: {_text(text)}" for label, text in block.facts)
        case blocks.Table():
            return _table(block)
        case blocks.Code():
            return _code(block)


# ---------------------------------------------------------------- text


def _text(text: blocks.Inline) -> str:
    """Return the pieces of `text`, escaped. All text is escaped here."""
    return "".join(map(_span, blocks.spans(text)))


def _span(span: blocks.Span) -> str:
    if span.role == "name":
        return markdown_name(span.text)
    text = markdown_text(span.text)
    if span.role != "strong" or not text.strip():
        return text
    inner = text.strip()  # emphasis must not begin or end with a blank
    return text.replace(inner, f"**{inner}**")


_BLOCK_START = re.compile(r"^(\d{1,9}(?=[.)](?:\s|$))|(?=[-+=]))")


def _line(text: blocks.Inline) -> str:
    """Return a separate line that starts no list, rule or code block."""
    return _BLOCK_START.sub(r"\1\\", _text(text).strip())


def _note(note: blocks.Note) -> str:
    details = "".join(f"\n  - {_line(detail)}" for detail in note.details)
    return f"- {MARK_WORDS.get(note.mark, '')}{_line(note.text)}{details}"


# ---------------------------------------------------------------- tables and code


def _table(table: blocks.Table) -> str:
    """Rows of cells between pipes."""
    head = [_text(column.title) for column in table.columns]
    rule = ["---:" if column.align == ">" else "---" for column in table.columns]
    rows = [[*map(_text, row), *[""] * (len(head) - len(row))] for row in table.rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _code(code: blocks.Code) -> str:
    """Return a code block with a fence longer than any fence inside it."""
    lines = ["".join(display_sentence(span.text) for span in blocks.spans(line)) for line in code.lines]
    longest = max((len(ticks) for line in lines for ticks in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([fence + code.language, *lines, fence])
