"""Share of changed answers: exact binomial bounds, at one look or at several.

For any deterministic scorer of an answer's text with values between 0 and 1, the mean score cannot drop by more than
the share of changed answers.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom


def most_changed(looks: Sequence[int], share: float, level: float, planned: int | None = None) -> list[int]:
    """Return how many answers may have changed at each look to rule out that `share` or more change; −1 for none.

    >>> most_changed([199], 0.015, 0.05), most_changed([198], 0.015, 0.05), most_changed([1000], 0.015, 0.05)
    ([0], [-1], [8])
    >>> most_changed([300, 650, 1000], 0.015, 0.05)
    [0, 3, 8]

    looks: answers at each look, of `planned` ones. If exactly `share` change, the chance to rule it out at one look or
    another is at most `level`: it is computed over the paths that have not ended before. The error is spent as in
    `gradience.statistics.sequential`.
    """
    paths, before, used, numbers = np.ones(1), 0, 0.0, []
    for look in looks:
        new = look - before
        paths = np.convolve(paths, binom.pmf(np.arange(new + 1), new, share))
        ended = np.cumsum(paths)
        spent = level * math.log1p((math.e - 1) * look / (planned or looks[-1]))
        most = int(np.searchsorted(ended, spent - used, side="right")) - 1
        if most >= 0:
            used += float(ended[most])
            paths[: most + 1] = 0.0
        numbers.append(most)
        before = look
    return numbers


def p_value(changed: int, looks: Sequence[int], share: float, planned: int | None = None) -> float:
    """Return the smallest level at which the last of `looks` rules out that `share` or more change.

    >>> round(p_value(0, [199], 0.015), 4)
    0.0494
    """

    def ruled_out(level: float) -> bool:
        return most_changed(looks, share, level, planned)[-1] >= changed

    return math.exp(_boundary(lambda log: ruled_out(math.exp(log)), math.log(1e-12), 0.0))


def largest_share(
    changed: int, looks: Sequence[int], level: float = 0.05, planned: int | None = None
) -> float:
    """Return the upper bound of the share of changed answers: the smallest that the last of `looks` rules out.

    At one look it is Clopper and Pearson's one-sided bound.

    >>> round(largest_share(0, [198]), 4), round(largest_share(8, [1000]), 4)
    (0.015, 0.0144)
    """
    return _boundary(
        lambda share: most_changed(looks, share, level, planned)[-1] >= changed, changed / looks[-1], 1.0
    )


def _boundary(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where `holds` becomes true between `low` and `high`, rounded up; `high` if it does not."""
    if holds(low):
        return low
    if not holds(high):
        return high
    width = 1e-9 * max(1.0, abs(high - low))
    return float(brentq(lambda value: 1.0 if holds(value) else -1.0, low, high, xtol=width)) + width
