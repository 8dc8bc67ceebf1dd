"""A small chart made of characters: a line of blocks."""

from collections.abc import Sequence
from itertools import pairwise

from gradience.reports.base.blocks import Span

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> Span:
    """Return one row of at most `width` blocks, each the mean of neighbors; a flat series is a row of low blocks."""
    columns = min(width, len(values))
    edges = [round(i * len(values) / columns) for i in range(columns + 1)] if columns else []
    shown = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    span = high - low
    blocks = (BLOCKS[round(7 * (value - low) / span)] if span > 0 else BLOCKS[0] for value in shown)
    return Span("".join(blocks), "info")
