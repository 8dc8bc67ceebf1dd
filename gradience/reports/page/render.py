"""A page as one HTML file: its parts, the template, the browser's content policy, and the only place where scripts are
inserted. A part has one title of a report, and sections of blocks and plots.

Untrusted text enters in two ways, both escaped: as markup of `html.py`, which escapes every span, and through the
template's autoescape. Data of plots are JSON in which `<` is escaped, so that no text can close its element.
"""

import base64
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from gradience.digests import sha256_bytes, sha256_file
from gradience.errors import InputError, UsageError, require
from gradience.files import records
from gradience.files.whole import write_whole
from gradience.reading import MAX_DATA_BYTES, open_stream
from gradience.reports.audit import AuditReport, audits_blocks
from gradience.reports.base import blocks as doc
from gradience.reports.base import html
from gradience.reports.base.names import display_sentence
from gradience.reports.base.numbers import plural
from gradience.reports.base.report import Report, RunInfo
from gradience.reports.bench import Bench
from gradience.reports.evaluation import REFERENCE, EvaluationReport, RecordsFile
from gradience.reports.plots.plot import Image, Plot, plots_of
from gradience.reports.plots.plotly import to_plotly
from gradience.reports.shrink import ShrinkReport

# ---------------------------------------------------------------- flipped examples
# Examples that only one of two adapters answers correctly, from the records that a report names. Records are read only
# from the report's folder, and refused if their digest differs. Without them there is no such section.

TITLE = "Flipped examples"
SHOWN = 10
"""Maximum number of examples per kind and adapter."""
EXCERPT, PROMPT = 120, 600
"""Maximum characters of an answer and of a prompt; the end is kept."""
Pair = tuple[records.Record, records.Record]
"""Answers of the reference and of the candidate to one example."""


class PromptTexts(NamedTuple):
    """The data of a report's examples, read back from where they came from."""

    texts: Mapping[str, str]
    """Prompt by the example's id."""
    labels: Sequence[str] = ()
    """Names of the labels; empty if the answers are not labels."""


ReadPrompts = Callable[[], PromptTexts]


def flip_blocks(
    report: Report, folder: Path, prompts: ReadPrompts | None = None, *, texts: bool = True
) -> list[doc.Block]:
    """Return the section on flipped examples; empty if there are no records.

    prompts: reads the data of the examples; called if there are flips to show. texts: True to quote prompts and
    answers; ids and counts are always shown.
    """
    try:
        flips = [*_flips(report, folder)]
    except InputError as error:
        return [doc.Heading(TITLE), doc.Notes([doc.Note("warning", f"records not shown: {error}")])]
    if not flips:
        return []
    known = prompts() if prompts is not None and texts else PromptTexts({})
    aside = f"up to {SHOWN} per kind"
    aside += "; prompts not shown: no local data file could be read" if texts and not known.texts else ""
    blocks: list[doc.Block] = [doc.Heading(TITLE, aside=aside, folded=True)]
    for name, words, pairs in flips:
        title = f": {plural(len(pairs), 'correct answer')}, {words}"
        blocks += [doc.Paragraph((doc.Span(name, "name"), title)), _table(pairs[:SHOWN], known, texts=texts)]
    return blocks


def _table(pairs: Sequence[Pair], known: PromptTexts, *, texts: bool) -> doc.Table:
    """Return examples with the correct answer and both given answers; only ids without texts."""
    if not texts:
        return doc.Table([doc.Column("id")], [[doc.Span(new.id, "name")] for _, new in pairs])
    rows: list[list[doc.Inline]] = []
    for old, new in pairs:
        prompt = known.texts.get(new.id)
        example = doc.Span(new.id, "name") if prompt is None else doc.Span(_end(prompt, PROMPT), "quote")
        (correct, reference), (_, candidate) = (answers_of(record, known.labels) for record in (old, new))
        rows.append([example, *(doc.Span(text, "quote") for text in (correct, reference, candidate))])
    head = doc.Column("prompt" if known.texts else "id", wrap=True)
    return doc.Table([head, *map(doc.Column, ("correct answer", "reference", "candidate"))], rows)


def answers_of(record: records.Record, labels: Sequence[str]) -> tuple[str, str]:
    """Return the correct answer and the given answer."""
    if isinstance(record, records.ClassificationRecord | records.ChoiceRecord):
        correct, given = (
            labels[label] if label < len(labels) else str(label) for label in (record.label, record.predicted)
        )
        return correct, given
    if isinstance(record, records.GenerationRecord):
        return _end(record.answer), _end(record.output if record.extracted is None else record.extracted)
    return "", ""


Answers = tuple[str, RecordsFile]
"""The name of an adapter, and the file of its answers inside the folder of the report."""


def _answers(report: Report) -> list[Answers]:
    """Return the records of the reference, then of each candidate; empty without a reference."""
    match report:
        case EvaluationReport():
            rows = list(report.adapters)
        case ShrinkReport():
            results = [candidate.result for candidate in report.candidates if candidate.result is not None]
            rows = [report.reference, *results]
        case Bench() if report.probe is not None:
            measured = [("probe", report.probe), *((row.name, row.measures) for row in report.variants)]
            return [
                (name, RecordsFile(path=measures.records, sha256=measures.records_sha256))
                for name, measures in measured
                if measures is not None
            ]
        case _:
            return []
    kept = sorted((row for row in rows if row.records), key=lambda row: row.role != REFERENCE)
    if not kept or kept[0].role != REFERENCE:
        return []
    # the first file has the answers; for free text the second has scores of the gold responses
    return [(row.name, row.records[0]) for row in kept]


def _flips(report: Report, folder: Path) -> Iterator[tuple[str, str, list[Pair]]]:
    """Yield the name of each adapter with records, which side alone is correct, and these examples, if there are any.

    Raises InputError (`other-records`).
    """
    answers = _answers(report)
    before = _read(answers[0][1], folder) if answers else None
    if before is None:
        return
    old = {record.id: record for record in before.records if not isinstance(record, records.ScoreRecord)}
    for name, file in answers[1:]:
        changed: dict[str, list[Pair]] = {"reference only": [], "candidate only": []}
        after = _read(file, folder)
        for record in after.records if after is not None else ():
            first = old.get(record.id)
            if first is not None and first.correct != record.correct:
                changed["reference only" if first.correct else "candidate only"].append((first, record))
        yield from ((name, words, pairs) for words, pairs in changed.items() if pairs)


def _read(file: RecordsFile, folder: Path) -> records.Evaluation[records.Record] | None:
    """Return the records in a file of the folder; None if it is not there, or a link leads out of the folder."""
    path = folder / file.path
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return None
    if sha256_file(path, limit=MAX_DATA_BYTES) != file.sha256:
        raise InputError(
            f"{file.path}: sha256 differs from the one in the report",
            code="other-records",
            hint="evaluate again to rewrite records and report",
        )
    return records.read_records(path)


def _end(text: str, most: int = EXCERPT) -> str:
    return text if len(text) <= most else f"…{text[-most:]}"


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

    heading: doc.Heading
    blocks: list[doc.Block] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)


@dataclass(slots=True)
class PagePart:
    """One report, or a summary of several."""

    heading: doc.Heading
    """Its title, with the verdict as the aside."""
    opening: list[doc.Block] = field(default_factory=list)
    """Blocks before the first section."""
    sections: list[Section] = field(default_factory=list)

    @property
    def answer(self) -> list[doc.Block]:
        """Sentences and notes of the opening, for the summary box."""
        return [block for block in self.opening if isinstance(block, doc.Paragraph | doc.Notes)]

    @property
    def facts(self) -> list[doc.Block]:
        """The other blocks of the opening."""
        return [block for block in self.opening if not isinstance(block, doc.Paragraph | doc.Notes)]


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
    first.sections[:0] = [Section(doc.Heading("Plots"), plots=plots)] if plots else []
    return [first, *others]


def _parts(document: doc.Document) -> list[PagePart]:
    """Return the parts of a document, which begins with a title: the blocks before the first section, and sections."""
    parts: list[PagePart] = []
    at: list[doc.Block] = []
    for block in doc.filled(document):
        if not isinstance(block, doc.Heading):
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


def _plain(text: doc.Inline) -> str:
    """Return the text of a line, shortened and visible."""
    return display_sentence("".join(span.text for span in doc.spans(text)))


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
    return _inline("" if any(span.role.startswith("heat") for span in doc.spans(aside)) else aside)


def _inline(text: doc.Inline) -> Any:
    return _safe(html.inline(text))


def _blocks(blocks: Sequence[doc.Block]) -> Any:
    return _safe(f'<div class="gradience">{"".join(_drawn(blocks))}</div>' if blocks else "")


def _drawn(blocks: Sequence[doc.Block]) -> Iterator[str]:
    for block in blocks:
        if not isinstance(block, doc.Table | doc.Facts):
            yield html.block(block)
            continue
        # a table that is wider than a phone scrolls by itself, also by keyboard
        table = f'<div class="scroll" tabindex="0" role="group" aria-label="Table">{html.block(block)}</div>'
        if isinstance(block, doc.Table) and len(block.rows) > FOLDED:
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
