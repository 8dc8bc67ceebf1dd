"""Plots beside each other as one figure of a paper: how wide, how high, and its file.

The same plots give the same bytes with one version of matplotlib: no date, no random identifiers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from gradience.report.plots.plot import Intervals, Plot
from gradience.report.plots.to_matplotlib import LEGEND_LINE, draw, part, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = (5.2, 3.6)
"""Inches of one plot."""
ROW = 0.28
"""Inches of one row of a forest plot or a heat map."""
COLUMNS = 3
LEAST = (2.4, 2.2)
"""Inches below which a plot has no room for its text."""


def figure_of(plots: Sequence[Plot], *, width: float | None = None, titles: bool = True) -> Figure:
    """Return a figure of matplotlib with the plots beside each other, or below where there is no room.

    plots: at least one.
    width: inches of the whole, such as a column of the paper; text keeps its size. By default 5.2 for each of up to
        three plots beside each other.
    titles: whether each plot has its title; in a paper the caption says it.

    Raises MissingExtra without matplotlib.
    """
    across = min(len(plots), COLUMNS if width is None else max(1, min(COLUMNS, int(width // LEAST[0]))))
    down = math.ceil(len(plots) / across)
    whole = PANEL[0] * across if width is None else width
    share = whole / across / PANEL[0]
    with style():
        figure: Figure = part("figure").Figure(figsize=(whole, PANEL[1]), layout="constrained")
        heights = [0.0] * down
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for place, (plot, axes) in enumerate(zip(plots, panels, strict=False)):
            above = draw(plot, axes, share=share, title=titles)
            needed = _height(plot, share) + above * LEGEND_LINE / 72
            heights[place // across] = max(heights[place // across], needed)
        for axes in panels[len(plots) :]:
            axes.set_axis_off()
        figure.set_size_inches(whole, sum(heights))
    return figure


def image_of(plots: Sequence[Plot], kind: str, *, width: float | None = None, titles: bool = True) -> bytes:
    """Return the plots as the bytes of a file: kind is `svg`, `pdf` or `png`. Raises MissingExtra."""
    figure = figure_of(plots, width=width, titles=titles)
    title, sentence = plots[0].title, " ".join(plot.sentence for plot in plots)
    metadata: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None, "Title": title, "Description": sentence},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, "Title": title, "Subject": sentence},
        "png": {"Software": None, "Title": title, "Description": sentence},
    }
    file = BytesIO()
    with style():
        figure.savefig(file, format=kind, metadata=metadata[kind], dpi=200)
    return file.getvalue()


def _height(plot: Plot, share: float) -> float:
    """Inches; share: of the usual width."""
    plain = max(LEAST[1], PANEL[1] * min(1.0, share))
    return max(plain, 1.4 + ROW * _rows(plot))


def _rows(plot: Plot) -> int:
    """Rows that need a line of text each."""
    for series in plot.series:
        if isinstance(series, Intervals):
            return len(series.rows)
    return len(plot.y.categories) if plot.y.scale == "categories" else 0
