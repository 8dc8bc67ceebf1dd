"""Pairs of scores -> difference, interval, test, power, grade: what `EvidenceReport` holds, from gradience.statistics.

"Better" points up here: where lower is better, differences are turned for the tests and turned back for the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradience.evidence.pairing import Pair
from gradience.reports.base.graded import Bounds, Grade, PairedEvidence
from gradience.reports.evidence import Flip, Planning

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the scores show."""

    delta: float
    """B − A, as all bounds."""
    low: float
    high: float
    bounds: Bounds
    table: PairedEvidence | None
    planning: Planning
    grade: Grade
    flat: bool
    """Whether all differences are equal: then Student's interval has no width, and shows nothing."""


def binary(pairs: Sequence[Pair]) -> bool:
    """Whether every score of both is 0 or 1."""
    return all(item.score in (0.0, 1.0) for pair in pairs for item in (pair.a, pair.b))


def outcome_of(pairs: Sequence[Pair], margin: float, *, lower_is_better: bool) -> Outcome:
    """Compare the scores. margin: positive, in the score's units."""
    from gradience.statistics import pair_grade

    a = np.array([pair.a.score for pair in pairs])
    b = np.array([pair.b.score for pair in pairs])
    better = a - b if lower_is_better else b - a
    evidence = _of_counts if binary(pairs) else _of_scores
    low, high, worst, best, p_value, table = evidence(better, a if not lower_is_better else 1 - a, margin)
    sign = -1.0 if lower_is_better else 1.0
    turned = [sorted(sign * value for value in ends) for ends in ((low, high), (worst, best))]
    flat = table is None and bool((better == better[0]).all())
    return Outcome(
        float((b - a).mean()),
        turned[0][0],
        turned[0][1],
        Bounds(low=turned[1][0], high=turned[1][1], p_value=p_value),
        table,
        _planning(better, margin, table),
        "C" if flat else pair_grade(worst, best, margin),
        flat,
    )


Found = tuple[float, float, float, float, float, PairedEvidence | None]
"""The 95 % interval of how much better B is, the 90 % one, the p-value of the margin, the table."""


def _of_counts(better: FloatArray, correct_a: FloatArray, margin: float) -> Found:
    from gradience.statistics import PairedTable, tango, tango_p_value

    counts = PairedTable.of(correct_a == 1, correct_a + better == 1)
    table = PairedEvidence.of(counts)
    worst, best = tango(counts, 0.90)
    return table.low, table.high, worst, best, tango_p_value(counts, margin), table


def _of_scores(better: FloatArray, _: FloatArray, margin: float) -> Found:
    from gradience.statistics import mean_difference, mean_p_value

    low, high = mean_difference(better)
    worst, best = mean_difference(better, 0.90)
    return low, high, worst, best, mean_p_value(better, margin), None


def _planning(better: FloatArray, margin: float, table: PairedEvidence | None) -> Planning:
    from gradience.statistics import items_for_mean, items_needed, smallest_margin, smallest_margin_of_mean

    variance = float(better.var(ddof=1)) if table is None else table.discordance
    if variance == 0:
        return Planning(variance=None, examples_80=None, examples_90=None, margin_80=None, margin_90=None)
    needed, smallest = (
        (items_for_mean, smallest_margin_of_mean) if table is None else (items_needed, smallest_margin)
    )
    return Planning(
        variance=variance,
        examples_80=needed(variance, margin, wanted=0.8),
        examples_90=needed(variance, margin, wanted=0.9),
        margin_80=smallest(len(better), variance, wanted=0.8),
        margin_90=smallest(len(better), variance, wanted=0.9),
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
