"""The base class of all reports: artifacts shown as text, Markdown, HTML, plots or a table of rows.

A report is one file of this folder's parent: its model, the blocks of its screen and document, and its plots. The
renderers are imported when a report is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self, cast, get_args

from gradience.errors import require
from gradience.files.artifact import Artifact
from gradience.files.whole import write_whole
from gradience.reports.base.blocks import DOCUMENT, SCREEN, Document, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

Plots = Mapping[str, str]
"""Kind of plot -> its maker, the most informative first: `plots.compared:forest_plot` is a module
of `gradience.reports` and its function of the report. A plot without data is left out."""

COMPARED_PLOTS: Plots = {"forest": "plots.compared:forest_plot", "pareto": "plots.compared:pareto_plot"}
"""Plots of a report that compares adapters with a reference."""


class Readable(Artifact):
    """An artifact that the command line prints. A subclass defines `blocks`, or `screen` if the amount of detail
    differs."""

    def blocks(self) -> Document:
        """Return all blocks of a document."""
        return self.screen(DOCUMENT)

    def screen(self, view: View) -> Document:
        """Return the blocks of a view, by default those of a document."""
        return self.blocks()

    def to_text(self, *, width: int | None = None, color: bool = False, view: View = SCREEN) -> str:
        """Return the text that the command line prints.

        >>> text = report.to_text(view=View(full=True))  # every module

        width: columns of the terminal; None for a file or a pipe. view: amount of detail.
        """
        from gradience.reports.base import terminal

        columns = max(terminal.MIN_WIDTH, width or terminal.DEFAULT_WIDTH)
        return terminal.render(self.screen(replace(view, width=columns)), width=width, color=color)


class Report(Readable):
    """An artifact with `print`, notebook, Markdown, plot and DataFrame output."""

    row_field: ClassVar[str]
    """The field whose entries are the rows of `to_dataframe`."""
    plots: ClassVar[Plots] = {}

    def without_texts(self) -> Self:
        """Return the report without quoted examples and answers, which may be private."""
        return self

    def to_markdown(self) -> str:
        """Return the report as GitHub-flavoured Markdown, for a model card or a pull request."""
        from gradience.reports.base import markdown

        return markdown.render(self.blocks())

    def plot(self, kind: str | None = None) -> Figure:
        """Return a plot of the report as a matplotlib figure.

        >>> report.plot("energy").savefig("energy.pdf")  # doctest: +SKIP

        kind: kind of plot; the most informative by default. For an audit `heatmap`, `energy`, `spectrum`;
            docs/plots.md lists the kinds of every report, as does the error for an unknown kind.

        Raises UsageError (`no-plot`), and MissingExtra without the extra `plots`.
        """
        from gradience.reports.plots.matplotlib import figure_of
        from gradience.reports.plots.plot import plot_of

        return figure_of(plot_of(self, kind))

    def to_dataframe(self) -> DataFrame:
        """Return one row for each module, variant, run, finding or flip. Raises MissingExtra without pandas."""
        pandas = require("pandas", extra="pandas")
        rows = self.model_dump(include={self.row_field})[self.row_field]
        if not rows:
            (row, _) = get_args(type(self).model_fields[self.row_field].annotation)
            return cast("DataFrame", pandas.DataFrame(columns=list(row.__pydantic_fields__)))
        return cast("DataFrame", pandas.json_normalize(rows))

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the screen, and the most informative plot."""
        from gradience.reports.base import html
        from gradience.reports.plots.matplotlib import html_image
        from gradience.reports.plots.plot import plots_of

        plot = next(iter(plots_of(self).values()), None)
        return html.render(self.screen(SCREEN)) + (html_image(plot) if plot else "")

    def __str__(self) -> str:
        """Return what the command line prints."""
        return self.to_text().rstrip("\n")

    __repr__ = __str__  # shown in interactive sessions, instead of thousands of modules


def save_with_page(report: Report, path: Path) -> None:
    """Write a report to `path`, and its Markdown page to the file beside it with the suffix `.md`."""
    report.save(path)
    write_whole(path.with_suffix(".md"), [report.to_markdown().encode()])
