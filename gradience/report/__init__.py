"""Reports for people: an artifact becomes a document of blocks, and a document terminal text, Markdown or HTML.

blocks.py     what a document is made of: headings, paragraphs, notes, facts, tables, bars, heat maps, code
terminal.py   a document on the screen; rich is only for its colours
markdown.py   a document as GitHub-flavoured Markdown
html.py       a document as HTML
notebook.py   what a notebook shows of a report: its first sections and a plot
ascii.py      terminal text in plain ASCII
faces.py      reports show themselves: print, Markdown, a notebook's HTML, a plot
card.py       the block of an adapter's model card
names.py      what a stranger called something, made safe for each of the three
numbers.py    numbers for people, never more precise than they are true
view.py       how much of an artifact is shown
modules.py    tables of modules, a row for each or for each kind, a column for each measure
audit/, compression/, comparison.py, … one artifact each
plots/        plots as pure data, the table behind each, and a plotly figure of each
page/         reports with their plots as one HTML file

**A report** is one file with one function that returns its blocks, and a line in `DOCUMENTS` of faces.py, from which
`print`, a notebook and `to_markdown()` take them. What the command line prints has a function with its options:

    def forecast_blocks(forecast: BenchForecast) -> Document:
        return [Heading("Plan"), Facts([("model", Span(forecast.model, "name"))]), ...]

    def forecast_text(forecast: BenchForecast, *, width: int | None = None, color: bool = False) -> str:
        return terminal.render(forecast_blocks(forecast), width=width, color=color)

**A section** is a function that returns blocks, beginning with a `Heading`, and one line where its artifact lists its
sections (`SECTIONS` of audit, comparison and compression; bench, monitor, check and forecast call theirs in the
function that returns the blocks). Where the screen shows a shorter list than the document, a parameter of the blocks
function says so.

What the functions return is text, never markup: what a stranger named is `Span(name, "name")`, and sentences that
contain such names are plain strings. The renderers escape everything, once. A section looks the same on every screen
from 60 columns up: sentences wrap, columns with `drop` are left out, names are shortened as far as they stay apart.

**A kind of block** is one dataclass in blocks.py and one `case` in each renderer.
"""
