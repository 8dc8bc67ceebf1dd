"""Two logs of an evaluation -> EvidenceReport: `gradience evidence`, and `compare_logs` in Python."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from gradience.digests import sha256_file
from gradience.errors import UsageError, require
from gradience.evidence.base import Log, Wanted
from gradience.evidence.formats import read_log
from gradience.evidence.outcome import binary, flips_of, outcome_of
from gradience.evidence.pairing import Pair, paired, unchecked
from gradience.evidence.pairing import lower_is_better as direction_of
from gradience.evidence.sentences import verdict_of
from gradience.evidence.settings import EvidenceSettings
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.base.exact import share_of_points
from gradience.reports.base.run import Stopwatch
from gradience.reports.evidence import EvidenceReport, LogFacts
from gradience.settings import public


@public(EvidenceSettings)
def compare_logs(settings: EvidenceSettings) -> EvidenceReport:
    """Compare two logs of the same examples, and return the difference of their scores and what it shows.

    >>> report = compare_logs("probe.csv", "truncated.csv", margin=1)
    >>> report.grade, report.n, round(report.low, 4), round(report.high, 4)
    ('B', 2186, -0.0029, 0.004)

    A log is of lm-eval, Inspect or Every Eval Ever, or a table (CSV, JSON lines) with `id` and `score`. The keywords
    are the flags of `gradience evidence`:

    Raises InputError where one cannot be read, or where the two were not asked the same; UsageError where a choice is
    missing; MissingExtra without scipy.
    """
    require("scipy", extra="stats")
    watch = Stopwatch(settings.command)
    wanted = Wanted(settings.metric, settings.filter)
    left, right = (read_log(Path(path), wanted) for path in (settings.a, settings.b))
    pairs = paired(left, right)
    lower = direction_of(left, right, settings.lower_is_better)
    allowed = _margin(settings.margin, left.metric, pairs, lower_is_better=lower)
    result = outcome_of(pairs, allowed, lower_is_better=lower)
    n_lost, n_gained, rows = flips_of(pairs, settings.flips, lower_is_better=lower)
    facts = [_facts(left), _facts(right)]
    notes = unchecked(left, right, pairs)
    if facts[0].sha256 == facts[1].sha256:
        notes.append("A and B are the same file")
    if result.flat:
        notes.append("all differences are equal: an interval without width says nothing about other examples")
    return EvidenceReport(
        a=facts[0],
        b=facts[1],
        task=left.task if left.task == right.task else None,
        metric=left.metric,
        filter=left.filter,
        lower_is_better=lower,
        n=len(pairs),
        delta=result.delta,
        low=result.low,
        high=result.high,
        margin=allowed,
        bounds=result.bounds,
        table=result.table,
        planning=result.planning,
        grade=result.grade,
        verdict=verdict_of(result, len(pairs), allowed, lower_is_better=lower, shares=binary(pairs)),
        n_lost=n_lost,
        n_gained=n_gained,
        flips=rows,
        notes=tuple(notes),
        run=watch.run_info(),
    )


def _margin(given: float | None, metric: str, pairs: Sequence[Pair], *, lower_is_better: bool) -> float:
    """Return the margin in the score's units. Raises UsageError: `no-margin` without a default, `bad-margin`."""
    bounded = all(0 <= item.score <= 1 for pair in pairs for item in (pair.a, pair.b))
    if given is None:
        if bounded and not lower_is_better:
            return 0.025  # 2.5 points, as the safety policy of Bench has it
        raise UsageError(
            f"no default says how much worse {metric} may be",
            code="no-margin",
            hint=f"give --margin as planned: in points if {metric} is 0 or 1 for each example, else in its units",
        )
    if not 0 < given < float("inf") or (bounded and given >= 1 and not binary(pairs)):
        raise UsageError(
            f"a margin of {given} makes no sense here",
            code="bad-margin",
            hint="a positive number: points for 0/1 scores (2.5), else units of the score",
        )
    return float(share_of_points(Fraction(repr(given)))) if binary(pairs) else given


def _facts(log: Log) -> LogFacts:
    return LogFacts(
        path=path_text(log.path),
        sha256=sha256_file(log.path),
        format=log.format,
        model=None if log.model is None else sentence_text(log.model),
        mean=sum(item.score for item in log.items.values()) / len(log.items),
    )
