"""A report in a notebook: its first sections and its most informative plot. `to_markdown()` has the whole report."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from gradience.errors import MissingExtra
from gradience.reports.base import html
from gradience.reports.base.blocks import Block, Document, Heading, Table, spans
from gradience.reports.base.names import html_text
from gradience.reports.plots.kinds import plots_of
from gradience.reports.plots.plot import Plot

if TYPE_CHECKING:
    from gradience.reports.base.report import Report

IN_A_CELL = 760
"""Maximum width of a picture, in pixels."""


def to_notebook(report: Report) -> str:
    """Return the sections up to the first table, and a plot if the report has one and matplotlib is installed."""
    blocks, left = _first(report.blocks())
    plot = next(iter(plots_of(report).values()), None)
    more = f"<p>More in <code>to_markdown()</code>: {html_text(' · '.join(left))}</p>" if left else ""
    return html.render(blocks) + (_picture(plot) if plot else "") + more


def _first(document: Document) -> tuple[list[Block], list[str]]:
    """Return the sections up to the first one with a table that is no drawing, and the titles of the others."""
    sections: list[list[Block]] = [[]]
    for block in document:
        if isinstance(block, Heading) and sections[-1]:
            sections.append([])
        sections[-1].append(block)
    tabled = (n for n, section in enumerate(sections, start=1) if any(map(_is_table, section)))
    shown = next(tabled, len(sections))
    heads = [section[0] for section in sections[shown:]]
    titles = ["".join(span.text for span in spans(head.text)) for head in heads if isinstance(head, Heading)]
    return [block for section in sections[:shown] for block in section], titles


def _is_table(block: Block) -> bool:
    return isinstance(block, Table) and not any(column.drawing for column in block.columns)


def _picture(plot: Plot) -> str:
    """Return the plot as a self-contained image: no script, nothing to fetch."""
    from gradience.reports.plots.matplotlib import image_of

    try:
        image = b64encode(image_of(plot, "svg")).decode()
    except MissingExtra as missing:
        return f"<p>{html_text(f'To see the plot, install matplotlib: {missing.hint}')}</p>"
    label = html_text(f"{plot.title}. {plot.sentence}")
    return f'<img alt="{label}" style="max-width:min(100%, {IN_A_CELL}px)" src="data:image/svg+xml;base64,{image}">'
