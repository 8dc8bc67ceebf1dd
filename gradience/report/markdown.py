"""Tables of GitHub-flavoured Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradience.report.names import markdown_text


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> str:
    """A pipe table; the cells are escaped already."""
    rule = ["---:" if side == ">" else "---" for side in align]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def escaped(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """Cells of plain text, escaped."""
    return [[markdown_text(cell) for cell in row] for row in rows]
