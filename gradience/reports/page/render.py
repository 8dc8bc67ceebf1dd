"""A page as one HTML file: its parts, the template, the browser's content policy, and the only place where scripts are
inserted. A part has one title of a report, and sections of blocks and plots.

Untrusted text enters in two ways, both escaped: as markup of `html.py`, which escapes every span, and through the
template's autoescape. Data of plots are JSON in which `<` is escaped, so that no text can close its element.
"""

import base64
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from gradience.digests import sha256_bytes
from gradience.errors import InputError, UsageError, require
from gradience.files.whole import write_whole
from gradience.reading import open_stream
from gradience.reports.audit import AuditReport, audits_blocks
from gradience.reports.base import html
from gradience.reports.base.blocks import (
    Block,
    Document,
    Facts,
    Heading,
    Inline,
    Notes,
    Paragraph,
    Table,
    filled,
    spans,
)
from gradience.reports.base.names import display_sentence
from gradience.reports.base.report import Report, RunInfo
from gradience.reports.page.flips import ReadPrompts, flip_blocks
from gradience.reports.plots.plot import Image, Plot, plots_of
from gradience.reports.plots.plotly import to_plotly

# ---------------------------------------------------------------- parts of a page


@dataclass(frozen=True, slots=True)
class PageSource:
    """A report and its source."""

    name: str
    """Name on the page, without the full path, because pages are shared."""
    report: Report
    sha256: str = ""
    """sha256 of the file; empty if the report was not read from a file."""
    verify: str = ""
    """The command that verifies it."""
    folder: Path | None = None
    """Folder of the records that the report names; None if there is none."""
    prompts: ReadPrompts | None = None
    """Reads the prompts of its examples back, if the data are on this machine."""

    @property
    def command(self) -> str:
        """The command that made the report; empty if the report does not have it."""
        run = getattr(self.report, "run", None)
        return run.command if isinstance(run, RunInfo) else ""


@dataclass(slots=True)
class Section:
    """One section of a report."""

    heading: Heading
    blocks: list[Block] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


@dataclass(slots=True)
class PagePart:
    """One report, or a summary of several."""

    heading: Heading
    """Its title, with the verdict as the aside."""
    opening: list[Block] = field(default_factory=list)
    """Blocks before the first section."""
    sections: list[Section] = field(default_factory=list)

    @property
    def answer(self) -> list[Block]:
        """Sentences and notes of the opening, for the summary box."""
        return [block for block in self.opening if isinstance(block, Paragraph | Notes)]

    @property
    def facts(self) -> list[Block]:
        """The other blocks of the opening."""
        return [block for block in self.opening if not isinstance(block, Paragraph | Notes)]


def parts_of(sources: Sequence[PageSource], *, texts: bool) -> list[PagePart]:
    """Return one part per title of each report, with a summary part before several audits.

    texts: True to quote examples and answers.
    """
    audits = [source.report for source in sources if isinstance(source.report, AuditReport)]
    parts: list[PagePart] = []
    for source in sources:
        if len(audits) > 1 and source.report is audits[0]:
            parts += _parts(audits_blocks(audits))
        parts += _parts_of(source, texts=texts)
    return parts


def _parts_of(source: PageSource, *, texts: bool) -> list[PagePart]:
    """Return a report's plots as its first section, and its other sections in order."""
    report = source.report if texts else source.report.without_texts()
    flips = [] if source.folder is None else flip_blocks(report, source.folder, source.prompts, texts=texts)
    first, *others = _parts([*report.blocks(), *flips])
    plots = list(plots_of(report).values())
    first.sections[:0] = [Section(Heading("Plots"), plots=plots)] if plots else []
    return [first, *others]


def _parts(document: Document) -> list[PagePart]:
    """Return the parts of a document, which begins with a title: the blocks before the first section, and sections."""
    parts: list[PagePart] = []
    at: list[Block] = []
    for block in filled(document):
        if not isinstance(block, Heading):
            at.append(block)
        elif block.level == 1:
            parts.append(PagePart(block))
            at = parts[-1].opening
        else:
            parts[-1].sections.append(Section(block))
            at = parts[-1].sections[-1].blocks
    return parts


# ---------------------------------------------------------------- the page

MARK = b'<!doctype html>\n<html lang="en" data-written-by="gradience">'
"""The first bytes of a page."""
FOLDED = 40
"""A table with more rows than this is collapsed."""
HEIGHT, LEAST_HEIGHT = 360, 220
ROW_HEIGHT, CELL_WIDTH = 26, 16
"""Pixels per row of a forest plot or a heat map, and per column of a heat map at least."""
SCROLLED = 22
"""A plot with more rows than this may be higher than its part of the page, and scrolls."""
BUNDLE = "plotly-cartesian.min.js"


def is_page(path: Path) -> bool:
    """Return True if `path` is a page written by Gradience, which may be replaced."""
    try:
        with open_stream(path) as file:
            return file.read(len(MARK)) == MARK
    except InputError:
        return False


def check_page(output: Path) -> Path:
    """Refuse, before any work is done, a page that cannot be written.

    An earlier page is replaced, and no other file. Raises UsageError (`not-ours`), MissingExtra without jinja2.
    """
    require("jinja2", extra="report")
    if os.path.lexists(output) and not is_page(output):
        raise UsageError(
            f"{output}: exists and was not written by Gradience, so it is not replaced",
            code="not-ours",
            hint="choose another file",
        )
    return output


def to_page(sources: Sequence[PageSource], *, texts: bool = True) -> str:
    """Return reports as one HTML file of at most 2.5 MB for 1,000 modules of rank 64.

    >>> page = to_page([PageSource("audit.json", audit_adapter("my_adapter"))])

    sources: the first gives the title. texts: True to quote examples and answers.
    Raises MissingExtra without jinja2.
    """
    from gradience import __version__

    jinja2 = require("jinja2", extra="report")
    parts = parts_of(sources, texts=texts)
    figures = [to_plotly(plot) for part in parts for section in part.sections for plot in section.plots]
    script, bundle = asset("page.js"), asset(BUNDLE) if figures else ""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters |= {
        "plain": _plain, "inline": _inline, "aside": _aside, "blocks": _blocks, "frame": _frame
    }  # fmt: skip
    page: str = environment.from_string(asset("page.html")).render(
        parts=parts,
        sources=sources,
        policy=_policy([bundle, script] if bundle else [script]),
        style=_safe(asset("page.css")),
        script=_safe(script),
        plotly=_safe(bundle),
        plots=_safe(json_text(figures)) if figures else "",
        version=__version__,
    )
    return page


def write_page(output: Path, sources: Sequence[PageSource], *, texts: bool = True) -> bytes:
    """Write the page of the sources and return it. Raises OutputError (`write-failed`)."""
    page = to_page(sources, texts=texts).encode()
    write_whole(output, [page])
    return page


def asset(name: str) -> str:
    """Return a file of assets/."""
    return (files("gradience.reports.page") / "assets" / name).read_text(encoding="utf-8")


def json_text(values: Any) -> str:
    r"""Return JSON for a script element: `<` as `\u003c`, so that no string ends it or opens a comment."""
    text = json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _safe(markup: str) -> Any:
    """Return markup that the template inserts without escaping."""
    return require("markupsafe", extra="report").Markup(markup)  # installed with jinja2


def _plain(text: Inline) -> str:
    """Return the text of a line, shortened and visible."""
    return display_sentence("".join(span.text for span in spans(text)))


def _policy(scripts: Sequence[str]) -> str:
    """Return the Content-Security-Policy: nothing is fetched, and only these scripts run."""
    hashes = (base64.b64encode(sha256_bytes(script.encode())).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:;"
        " base-uri 'none'; form-action 'none'"
    )


# ---------------------------------------------------------------- filters of the template


def _aside(section: Section) -> Any:
    """Return the text beside a heading; none if it is the legend of a map, which the page shows as a plot."""
    aside = section.heading.aside
    return _inline("" if any(span.role.startswith("heat") for span in spans(aside)) else aside)


def _inline(text: Inline) -> Any:
    return _safe(html.inline(text))


def _blocks(blocks: Sequence[Block]) -> Any:
    return _safe(f'<div class="gradience">{"".join(_drawn(blocks))}</div>' if blocks else "")


def _drawn(blocks: Sequence[Block]) -> Iterator[str]:
    for block in blocks:
        if not isinstance(block, Table | Facts):
            yield html.block(block)
            continue
        # a table that is wider than a phone scrolls by itself, also by keyboard
        table = f'<div class="scroll" tabindex="0" role="group" aria-label="Table">{html.block(block)}</div>'
        if isinstance(block, Table) and len(block.rows) > FOLDED:
            table = f"<details><summary>{len(block.rows):,} rows</summary>{table}</details>"
        yield table


def _frame(plot: Plot) -> dict[str, int]:
    """Return height and least width of a plot in pixels, and whether it scrolls and is reached by keyboard."""
    rows, columns = len(plot.y.categories), len(plot.x.categories)
    mapped = any(isinstance(series, Image) for series in plot.series)
    return {
        "height": max(LEAST_HEIGHT, 110 + ROW_HEIGHT * rows) if rows else HEIGHT,
        "width": CELL_WIDTH * columns if mapped else 0,
        "scrolls": mapped or rows > SCROLLED,
    }
