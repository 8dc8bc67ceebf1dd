"""The base class of all reports: artifacts shown as text, Markdown, HTML, plots or a table of rows. And the parts that
many share: the run, the commit on the hub, findings.

A report is one file of this folder's parent: its model, the blocks of its screen and document, and its plots. The
renderers are imported when a report is drawn.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self, cast, get_args

from gradience import __version__
from gradience.errors import require
from gradience.files.artifact import Artifact, Part
from gradience.files.whole import write_whole
from gradience.reports.base.blocks import DOCUMENT, SCREEN, Document, View

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from gradience.files.hub import HubCommit

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


# ---------------------------------------------------------------- parts of many reports


class RunInfo(Part):
    """The only part that may differ between two runs on the same input."""

    gradience_version: str
    command: str
    started: str
    """UTC, ISO 8601."""
    seconds: float
    python: str
    numpy: str
    platform: str
    cpu_count: int


@dataclass(frozen=True)
class Stopwatch:
    """A stopwatch that starts when it is created. The wall clock is only a label; durations use the monotonic clock."""

    command: str = ""
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    clock: float = field(default_factory=time.perf_counter)

    def run_info(self) -> RunInfo:
        """Return command, times, versions and host facts."""
        import numpy as np  # an artifact is read without it

        return RunInfo(
            gradience_version=__version__,
            command=self.command,
            started=self.started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self.clock, 3),
            python=platform.python_version(),
            numpy=np.__version__,
            platform=platform.platform(),
            cpu_count=os.cpu_count() or 1,
        )


class HubSource(Part):
    """A commit of a repository on the hub."""

    repo: str
    """`org/name`."""
    revision: str | None = None
    """The requested branch, tag or commit; null for the default branch."""
    commit: str
    """The commit that was read."""
    inside: str = ""
    """The folder or file of the repository; empty for its root."""


def commit_of(source: HubSource | None) -> list[str]:
    """Return `commit 0123456789ab` for a screen; empty for an adapter on disk."""
    return [] if source is None else [f"commit {source.commit[:12]}"]


def hub_source(source: HubCommit | None) -> HubSource | None:
    """Return the source of an adapter as a part of an artifact; None for an adapter on disk."""
    if source is None:
        return None
    return HubSource(**asdict(source.address), commit=source.commit)


Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
"""The most severe first."""


class Finding(Part):
    """Something that the user should know."""

    code: str
    severity: Severity
    module: str | None = None
    message: str
    hint: str = ""
