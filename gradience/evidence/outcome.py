"""Pairs of scores -> difference, interval, test, power, grade: what `EvidenceReport` holds, from gradience.statistics.

"Better" points up here: where lower is better, differences are turned for the tests and turned back for the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradience.evidence.pairing import Pair
from gradience.reports.base.graded import Bounds, Grade
from gradience.reports.evidence import Flip, Planning
from gradience.statistics.table import PairedTable

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the scores show."""

    delta: float
    """B − A, as all bounds."""
    low: float
    high: float
    bounds: Bounds
    table: PairedTable | None
    planning: Planning
    grade: Grade
    flat: bool
    """Whether all differences are equal: then Student's interval has no width, and shows nothing."""


def binary(pairs: Sequence[Pair]) -> bool:
    """Whether every score of both is 0 or 1."""
    return all(item.score in (0.0, 1.0) for pair in pairs for item in (pair.a, pair.b))


def outcome_of(pairs: Sequence[Pair], margin: float, *, lower_is_better: bool) -> Outcome:
    """Compare the scores. margin: positive, in the score's units."""
    from gradience.statistics.paired import mean_difference, mean_p_value, pair_grade, tango, tango_p_value
    from gradience.statistics.power import (
        examples_for_mean,
        examples_needed,
        smallest_margin,
        smallest_margin_of_mean,
    )

    a = np.array([pair.a.score for pair in pairs])
    b = np.array([pair.b.score for pair in pairs])
    sign = -1.0 if lower_is_better else 1.0
    better = sign * (b - a)
    if binary(pairs):
        table = PairedTable.of(a != lower_is_better, b != lower_is_better)
        ends, bounds, p_value = (table.low, table.high), tango(table, 0.90), tango_p_value(table, margin)
        variance, flat = table.discordance, False
    else:
        table = None
        ends, bounds = mean_difference(better), mean_difference(better, 0.90)
        p_value = mean_p_value(better, margin)
        variance, flat = float(better.var(ddof=1)), bool((better == better[0]).all())
    needed, smallest = (
        (examples_for_mean, smallest_margin_of_mean) if table is None else (examples_needed, smallest_margin)
    )
    low, high = sorted(sign * end for end in ends)
    lowest, highest = sorted(sign * bound for bound in bounds)
    return Outcome(
        delta=float((b - a).mean()),
        low=low,
        high=high,
        bounds=Bounds(low=lowest, high=highest, p_value=p_value),
        table=table,
        planning=Planning(
            variance=variance or None,
            examples_80=needed(variance, margin, wanted=0.8) if variance else None,
            examples_90=needed(variance, margin, wanted=0.9) if variance else None,
            margin_80=smallest(len(better), variance, wanted=0.8) if variance else None,
            margin_90=smallest(len(better), variance, wanted=0.9) if variance else None,
        ),
        grade="C" if flat else pair_grade(bounds[0], bounds[1], margin),
        flat=flat,
    )


def flips_of(pairs: Sequence[Pair], most: int, *, lower_is_better: bool) -> tuple[int, int, tuple[Flip, ...]]:
    """How many examples B lost and gained, and at most `most` of each, those that differ most before the others."""
    sign = -1.0 if lower_is_better else 1.0
    changes = [(sign * (pair.b.score - pair.a.score), pair) for pair in pairs]
    lost = sorted((change for change in changes if change[0] < 0), key=lambda change: change[0])
    gained = sorted((change for change in changes if change[0] > 0), key=lambda change: -change[0])
    shown = [
        Flip(
            id=pair.a.id,
            change="lost" if better < 0 else "gained",
            score_a=pair.a.score,
            score_b=pair.b.score,
            excerpt=pair.a.excerpt,
            answer_a=pair.a.output,
            answer_b=pair.b.output,
        )
        for better, pair in [*lost[:most], *gained[:most]]
    ]
    return len(lost), len(gained), tuple(shown)
