"""Differences with their intervals, drawn on one scale on which 0 and the margin are marked."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from gradience.reports.base.blocks import Code, Inline, Span
from gradience.reports.base.exact import exact_text
from gradience.reports.base.graded import PooledEvidence

WIDTH, NAME = 32, 24
"""Signs of the scale, and of a name before it: together they fit a terminal of 60 columns."""
MOST = 4.0
"""The scale ends at so many margins at most, on either side: an arrow says that an interval goes on."""
Row = tuple[str, PooledEvidence]


class Scale:
    """A line from `low` to `high`, both differences, in WIDTH signs."""

    def __init__(self, margin: Fraction, ends: Sequence[float]) -> None:
        unit = float(margin) or 0.01
        self.margin = margin
        self.low = -min(max(-min(ends, default=0.0), 1.5 * unit), MOST * unit)
        self.high = min(max(max(ends, default=0.0), 0.75 * unit), MOST * unit)

    def place(self, value: float) -> int:
        """Return the column of a difference; below 0 or beyond WIDTH - 1 where it is off the scale."""
        return round((value - self.low) / (self.high - self.low) * (WIDTH - 1))

    def ruler(self) -> str:
        """Return the labels of the margin and of 0."""
        label = f"−{exact_text(100 * self.margin)}"
        start = max(0, self.place(-float(self.margin)) - len(label) + 1)
        return f"{' ' * start}{label}".ljust(self.place(0.0)) + "0"

    def line(self, evidence: PooledEvidence) -> str:
        """Return Δ (●) in its intervals: heavy for these runs, light for a new one."""
        signs = [" "] * WIDTH
        signs[self.place(-float(self.margin))], signs[self.place(0.0)] = "┊", "│"
        for bounds, sign in ((evidence.new_run, "─"), (evidence.these_runs, "━")):
            if bounds is None:
                continue
            first, last = self.place(bounds.low), self.place(bounds.high)
            for column in range(max(first, 0), min(last, WIDTH - 1) + 1):
                signs[column] = sign
            if first < 0:
                signs[0] = "◂"
            if last >= WIDTH:
                signs[-1] = "▸"
        if 0 <= self.place(evidence.delta) < WIDTH:
            signs[self.place(evidence.delta)] = "●"
        return "".join(signs).rstrip()


def drawing(rows: Sequence[Row], margin: Fraction) -> Code:
    """Return one line for each difference, below a ruler."""
    ends = [end for _, evidence in rows for end in _ends(evidence)]
    scale, names = Scale(margin, ends), [_short(name) for name, _ in rows]
    wide = max(map(len, names))
    lines: list[Inline] = [Span(f"{'':{wide}}  {scale.ruler()}", "dim")]
    lines += [
        f"{name:{wide}}  {scale.line(evidence)}" for name, (_, evidence) in zip(names, rows, strict=True)
    ]
    return Code(lines, drawing=True)


def _short(name: str) -> str:
    """A name in NAME signs: its end tells more than its beginning."""
    return name if len(name) <= NAME else f"…{name[1 - NAME :]}"


def _ends(evidence: PooledEvidence) -> tuple[float, float]:
    bounds = evidence.new_run or evidence.these_runs
    return bounds.low, bounds.high
