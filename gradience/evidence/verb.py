"""Two logs of an evaluation -> EvidenceReport: `gradience evidence`, and `compare_logs` in Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction

from gradience.arguments import integer_argument, number_argument, path_argument
from gradience.digests import sha256_file
from gradience.errors import UsageError, require
from gradience.evidence.base import Log, Wanted
from gradience.evidence.formats import read_log
from gradience.evidence.outcome import binary, flips_of, outcome_of
from gradience.evidence.pairing import Pair, paired, unchecked
from gradience.evidence.pairing import lower_is_better as direction_of
from gradience.evidence.sentences import verdict_of
from gradience.files.shared_names import path_text, sentence_text
from gradience.reports.base.exact import share_of_points
from gradience.reports.base.run import Stopwatch
from gradience.reports.evidence import EvidenceReport, LogFacts

DEFAULT_FLIPS = 5


def compare_logs(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    margin: float | None = None,
    metric: str | None = None,
    filter: str | None = None,
    lower_is_better: bool | None = None,
    flips: int = DEFAULT_FLIPS,
    command: str = "",
) -> EvidenceReport:
    """Compare two logs of the same examples, and return the difference of their scores and what it shows.

    >>> report = compare_logs("probe.csv", "truncated.csv", margin=1)
    >>> report.grade, report.n, round(report.low, 4), round(report.high, 4)
    ('B', 2186, -0.0029, 0.004)

    a: the reference: a log of lm-eval, Inspect or Every Eval Ever, or a table (CSV, JSON lines) with `id` and `score`.
    b: the candidate, of the same kind.
    margin: how much worse B may be: in points for scores that are 0 or 1 (default: 2.5), in the score's units for
        others (default: 0.025 for scores between 0 and 1 of which more is better).
    metric: which score, where a log has several.
    filter: which way of finding the answer, where a log has several.
    lower_is_better: None for what the logs say; more is better where they say nothing.
    flips: how many examples that B lost, and that it gained, the report holds.

    Raises InputError where one cannot be read, or where the two were not asked the same; UsageError where a choice is
    missing; MissingExtra without scipy.
    """
    require("scipy", extra="stats")
    paths = path_argument("a", a), path_argument("b", b)
    shown = integer_argument("flips", flips)
    given = None if margin is None else number_argument("margin", margin)
    watch = Stopwatch(command)
    wanted = Wanted(metric, filter)
    left, right = (read_log(path, wanted) for path in paths)
    pairs = paired(left, right)
    lower = direction_of(left, right, lower_is_better)
    allowed = _margin(given, left.metric, pairs, lower_is_better=lower)
    result = outcome_of(pairs, allowed, lower_is_better=lower)
    n_lost, n_gained, rows = flips_of(pairs, max(shown, 0), lower_is_better=lower)
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
