"""A plot for a notebook: plotly's figure of what plotly.py makes for a page, with its title and colours of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradience.errors import require
from gradience.report.plots.plot import Intervals, Plot
from gradience.report.plots.plotly import title_of, to_plotly

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

ROW, LEAST = 24, 420
"""Pixels of a row of names, and of a figure at least."""


def figure_of(plots: Sequence[Plot]) -> Figure:
    """Return plotly's figure of one plot. Raises MissingExtra without plotly."""
    (plot,) = plots
    figure: Figure = require("plotly.graph_objects", extra="plots").Figure(to_plotly(plot))
    rows = [len(one.rows) for one in plot.series if isinstance(one, Intervals)] or [len(plot.y.categories)]
    height = max(LEAST, 160 + ROW * rows[0])
    figure.update_layout(title_text=title_of(plot), template="plotly_white", height=height, margin_t=90)
    return figure
