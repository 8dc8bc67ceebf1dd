"""A report in a notebook: the screen and its most informative plot. `to_markdown()` has the whole report."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

from gradience.errors import MissingExtra
from gradience.reports.base import html
from gradience.reports.base.names import html_text
from gradience.reports.base.view import SCREEN
from gradience.reports.plots.kinds import plots_of
from gradience.reports.plots.plot import Plot

if TYPE_CHECKING:
    from gradience.reports.base.report import Report

IN_A_CELL = 760
"""Maximum width of a picture, in pixels."""


def to_notebook(report: Report) -> str:
    """Return the screen, and a plot if the report has one and matplotlib is installed."""
    plot = next(iter(plots_of(report).values()), None)
    return html.render(report.screen(SCREEN)) + (_picture(plot) if plot else "")


def _picture(plot: Plot) -> str:
    """Return the plot as a self-contained image: no script, nothing to fetch."""
    from gradience.reports.plots.matplotlib import image_of

    try:
        image = b64encode(image_of(plot, "svg")).decode()
    except MissingExtra as missing:
        return f"<p>{html_text(f'To see the plot, install matplotlib: {missing.hint}')}</p>"
    label = html_text(f"{plot.title}. {plot.sentence}")
    return f'<img alt="{label}" style="max-width:min(100%, {IN_A_CELL}px)" src="data:image/svg+xml;base64,{image}">'
