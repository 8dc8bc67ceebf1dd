"""Small charts made of characters: an area of a few rows, and a line of blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from gradience.reports.base.blocks import Code, Inline, Span
from gradience.reports.base.numbers import sig

BLOCKS = "▁▂▃▄▅▆▇█"
MIN_CHART = 24
"""Columns to which a chart of a few points is widened."""
LABEL = 9
"""Columns of the values beside a chart."""
LOG_FROM = 50.0
"""A series is drawn on a logarithmic axis if its largest value is this many times its smallest."""


def resample(values: Sequence[float], width: int) -> list[float]:
    """Return at most `width` means of neighbors, in order."""
    n = len(values)
    if n <= width:
        return list(values)
    edges = [round(i * n / width) for i in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]


def sparkline(values: Sequence[float], width: int) -> Span:
    """Return one row of blocks, lowest to highest; a flat series is a row of low blocks."""
    shown = resample(values, width)
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    span = high - low
    blocks = (BLOCKS[round(7 * (value - low) / span)] if span > 0 else BLOCKS[0] for value in shown)
    return Span("".join(blocks), "info")


def area(values: Sequence[float], first: int, last: int, *, width: int, height: int = 6) -> Code:
    """Return an area chart with its axes: values over steps `first` … `last`, in at most `width` columns."""
    shown = resample(values, width - LABEL - 3)
    shown = [value for value in shown for _ in range(max(1, MIN_CHART // len(shown)))]
    low, high = min(shown), max(shown)
    logarithmic = low > 0 and high / low >= LOG_FROM
    levels = [math.log(value) for value in shown] if logarithmic else shown
    floor, span = min(levels), max(levels) - min(levels)
    eighths = [1 + round((8 * height - 1) * (value - floor) / span) if span > 0 else 1 for value in levels]
    top, bottom = _end_labels(low, high)
    rows: list[Inline] = []
    for row in range(height - 1, -1, -1):
        cells = "".join(f" {BLOCKS}"[min(max(eighth - 8 * row, 0), 8)] for eighth in eighths)
        label = {height - 1: top, 0: bottom}.get(row, "")
        rows.append((Span(f"{label:>{LABEL}} ▏", "dim"), Span(cells.rstrip(), "info")))
    axis = str(first)
    if first != last:  # first and last step at the ends, always apart
        axis += f"{last:>{max(len(shown) - len(axis), len(str(last)) + 2)}}"
    axis += " (log scale)" if logarithmic else ""
    return Code([*rows, Span(" " * (LABEL + 2) + axis, "dim")], drawing=True)


def _end_labels(low: float, high: float) -> tuple[str, str]:
    """Labels of the highest and lowest values, with enough digits to distinguish them; one digit if they are equal."""
    for digits in range(3, 7):
        if sig(high, digits) != sig(low, digits):
            return sig(high, digits), sig(low, digits)
    return ("", sig(low)) if low == high else (sig(high), "")
