"""A page as one HTML file: the template, the policy that a browser holds it to, and the place where scripts come in.

Text of a stranger gets in by two ways, both escaped: as markup of `html.py`, which escapes every span, and through
the template's autoescape. Data of plots are JSON in which `<` is written as an escape, so that nothing in it ends its
element.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from gradience.digests import sha256_bytes
from gradience.errors import InputError, require
from gradience.reading import open_stream
from gradience.report.inputs import Source
from gradience.report.page.pieces import Part, Section
from gradience.report.page.texts import without_texts
from gradience.report.page.together import parts_of
from gradience.report.plots.plot import Image, Intervals, Plot
from gradience.report.plots.plotly import to_plotly
from gradience.report.plots.table import table_of
from gradience.reports.base import html
from gradience.reports.base.blocks import Bars, Block, Code, Facts, HeatMap, Inline, Notes, Table, spans
from gradience.reports.base.names import display_sentence, html_text
from gradience.reports.base.numbers import plural
from gradience.reports.base.run import RunInfo

MARK = b'<!doctype html>\n<html lang="en" data-written-by="gradience">'
"""How a page begins."""
FOLDED = 40
"""A table with more rows is folded away."""
HEIGHT, LEAST_HEIGHT, MOST_HEIGHT = 360, 220, 1600
ROW_HEIGHT = 26
"""Of a forest plot or a heat map: pixels for each row."""
BUNDLE = "plotly-cartesian.min.js"

Values = dict[str, Any]


def is_page(path: Path) -> bool:
    """Whether a page that Gradience wrote lies at `path`: it may be replaced."""
    try:
        with open_stream(path) as file:
            return file.read(len(MARK)) == MARK
    except InputError:
        return False


def to_page(sources: Sequence[Source], *, texts: bool = True) -> str:
    """Return reports as one HTML file of at most 2.5 MB for 1,000 modules of rank 64.

    >>> page = to_page([Source("audit.json", audit_adapter("my_adapter"))])

    sources: the first gives the title. texts: whether examples and answers are quoted.
    Raises MissingExtra without jinja2.
    """
    return _Writer(sources if texts else [without_texts(source) for source in sources], texts).page()


@dataclass
class _Writer:
    """Numbers the plots and the anchors of one page."""

    sources: Sequence[Source]
    texts: bool

    def page(self) -> str:
        from gradience import __version__

        jinja2 = require("jinja2", extra="report")
        self.safe = require("markupsafe", extra="report").Markup  # which jinja2 brings
        self.figures: list[Values] = []
        several = parts_of(self.sources, texts=self.texts)
        anchors = [f"report-{number}" if len(several) > 1 else "top" for number in range(1, len(several) + 1)]
        self.titles = {html_text(plain(part.title)): at for part, at in zip(several, anchors, strict=True)}
        parts = [
            self.part(anchor, f"{number}-" if len(several) > 1 else "", part)
            for number, (anchor, part) in enumerate(zip(anchors, several, strict=True), start=1)
        ]
        script = asset("page.js")
        bundle = asset(BUNDLE) if self.figures else ""
        template = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(asset("page.html"))
        page: str = template.render(
            title=title_of(several, parts[0]["plain"]),
            policy=policy([bundle, script] if bundle else [script]),
            style=self.safe(asset("page.css")),
            script=self.safe(script),
            plotly=self.safe(bundle),
            plots=self.safe(json_text(self.figures)) if self.figures else "",
            parts=parts,
            sources=[
                {
                    "name": display_sentence(source.name),
                    "schema": type(source.report).schema_id,
                    "sha256": source.sha256,
                    "verify": display_sentence(source.verify),
                    "command": display_sentence(command_of(source)),
                }
                for source in self.sources
            ],
            version=__version__,
        )
        return page

    def part(self, anchor: str, prefix: str, part: Part) -> Values:
        at = [f"section-{prefix}{number}" for number in range(1, len(part.sections) + 1)]
        titles = [html_text(plain(section.title)) for section in part.sections]
        self.targets = self.titles | dict(zip(titles, at, strict=True))
        return {
            "anchor": anchor,
            "title": self.safe(html.inline(part.title)),
            "aside": self.safe(linked(html.inline(part.aside), self.targets)),
            "plain": plain(part.title),
            "answer": self.blocks(part.answer, part.plots),
            "opening": self.blocks(part.opening, part.plots),
            "plots": self.plots(prefix, part.plots),
            "sections": [
                self.section(prefix, anchor, section)
                for anchor, section in zip(at, part.sections, strict=True)
            ],
        }

    def section(self, prefix: str, anchor: str, section: Section) -> Values:
        # above plots what they come to, below them what they rest on
        notes = [block for block in section.blocks if section.plots and isinstance(block, Notes)]
        body = [block for block in section.blocks if block not in notes]
        aside = linked(html.inline(section.aside), self.targets)
        return {
            "anchor": anchor,
            "title": self.safe(html.inline(section.title)),
            # what the signs of a map mean: the page shows its plot instead
            "aside": "" if _has_map(section.blocks) else self.safe(aside),
            "notes": self.blocks(notes, section.plots),
            "plots": self.plots(prefix, section.plots),
            "body": self.blocks(body, section.plots),
        }

    def plots(self, prefix: str, plots: Sequence[Plot]) -> list[Values]:
        return [self.plot(prefix, plot, wide=wide) for plot, wide in zip(plots, rows_of(plots), strict=True)]

    def plot(self, prefix: str, plot: Plot, *, wide: bool) -> Values:
        number = len(self.figures)
        self.figures.append(to_plotly(plot))
        return {
            "number": number,
            "anchor": f"plot-{prefix}{plot.name}",
            "title": display_sentence(plot.title),
            "sentence": display_sentence(plot.sentence),
            "label": display_sentence(f"{plot.title}. {plot.sentence}"),
            "height": height_of(plot),
            "wide": wide,
            "table": self.safe(_scrolled(table_of(plot), f"Figures: {plot.title}")),
        }

    def blocks(self, blocks: Sequence[Block], plots: Sequence[Plot]) -> Any:
        """The blocks; drawings only where no plot says the same."""
        shown = [block for block in blocks if not (plots and isinstance(block, Code) and block.drawing)]
        markup = f'<div class="gradience">{"".join(_drawn(shown))}</div>' if shown else ""
        return self.safe(linked(markup, self.targets))


def _has_map(blocks: Sequence[Block]) -> bool:
    return any(isinstance(block, HeatMap) for block in blocks)


def _drawn(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, HeatMap):
            continue
        if not isinstance(block, Table | Facts | Bars):
            yield html.block(block)
        elif isinstance(block, Table) and len(block.rows) > FOLDED:
            yield f"<details><summary>{len(block.rows):,} rows</summary>{_scrolled(block, 'Table')}</details>"
        else:
            yield _scrolled(block, "Table")


def _scrolled(block: Table | Facts | Bars, label: str) -> str:
    """A table that is wider than a phone scrolls by itself, also by keyboard."""
    name = html_text(label)
    return f'<div class="scroll" tabindex="0" role="group" aria-label="{name}">{html.block(block)}</div>'


# ---------------------------------------------------------------- parts of the file


def asset(name: str) -> str:
    """Return a file of assets/."""
    return (files("gradience.report.page") / "assets" / name).read_text(encoding="utf-8")


def policy(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy: nothing is fetched, and only these scripts run."""
    hashes = (base64.b64encode(sha256_bytes(script.encode())).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


def json_text(values: Any) -> str:
    r"""Return JSON for a script element: `<` as `\u003c`, so that no string ends it or opens a comment."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def plain(text: Inline) -> str:
    """Return the text of a line, shortened and visible."""
    return display_sentence("".join(span.text for span in spans(text)))


def linked(markup: str, anchors: Mapping[str, str]) -> str:
    """Return the markup with its links to titles: anchors has that of each title, as it stands in HTML."""

    def link(start: re.Match[str]) -> str:
        return f'<a href="#{anchors[start[1]]}">' if start[1] in anchors else "<a>"

    return re.sub(html.LINK.format('([^"]*)'), link, markup)


def title_of(parts: Sequence[Part], first: str) -> str:
    """Return what a browser's tab says: the title of the first part, and how many reports there are beside it."""
    others = sum(part.reports for part in parts if part.reports == 1) - (parts[0].reports if parts else 0)
    return f"{first} and {plural(others, 'more report')}" if others > 0 else first


def command_of(source: Source) -> str:
    """Return the command that made a report; empty where it does not say."""
    run = getattr(source.report, "run", None)
    return run.command or "" if isinstance(run, RunInfo) else ""


def is_wide(plot: Plot) -> bool:
    """Whether a plot takes a row of its own: a heat map, a forest plot."""
    return any(isinstance(one, Image | Intervals) for one in plot.series)


def rows_of(plots: Sequence[Plot]) -> list[bool]:
    """Return which plots have a row of their own: those that need it, and one that would stand there alone."""
    wide: list[bool] = []
    alone = False
    for plot in plots:
        if is_wide(plot) and alone:
            wide[-1] = True
        wide.append(is_wide(plot))
        alone = not (is_wide(plot) or alone)
    return [*wide[:-1], True] if alone else wide


def height_of(plot: Plot) -> int:
    """Return the pixels of a plot: rows of a forest or a heat map have room of their own."""
    rows = len(plot.y.categories)
    return min(MOST_HEIGHT, max(LEAST_HEIGHT, 110 + ROW_HEIGHT * rows)) if rows else HEIGHT
