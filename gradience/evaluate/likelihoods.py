"""Likelihoods of given responses as a result: nats per token, what a candidate loses of them, and what that shows."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from gradience.files.records import Evaluation
from gradience.reports.base.graded import Bounds, LikelihoodEvidence, NextGrade, per_token
from gradience.reports.evaluation import EvaluatedAdapter
from gradience.words import counted


def likelihoods_of(answers: Evaluation[Any]) -> LikelihoodEvidence:
    """Return how likely the responses are under one adapter."""
    return LikelihoodEvidence.of(*_columns(answers))


def against(reference: Evaluation[Any], answers: Evaluation[Any], margin: Fraction) -> dict[str, Any]:
    """Return the fields of a row that compare it with the reference. margin: nats per token."""
    from gradience.statistics.paired import mean_difference, mean_p_value

    before, tokens = _columns(reference)
    after, _ = _columns(answers)
    fields: dict[str, Any] = {"likelihood": LikelihoodEvidence.of(before, tokens, after)}
    gains = per_token(before, tokens, after)
    if len(gains) > 1:
        fields["bounds"] = Bounds.of(mean_difference(gains, 0.90), mean_p_value(gains, float(margin)))
    return fields


def graded_likelihood(
    row: EvaluatedAdapter, margin: Fraction, adjusted: float, family: int
) -> EvaluatedAdapter:
    """Return a candidate's row with its grade."""
    from gradience.statistics.paired import pair_grade
    from gradience.statistics.power import examples_for_mean

    bounds, likelihood = row.bounds, row.likelihood
    assert bounds is not None
    assert likelihood is not None
    allowed = f"(margin {float(margin):g})"
    grade = pair_grade(bounds.low, bounds.high, margin, adjusted)
    needs = None
    if grade == "B":
        reason = f"supported for these runs: with 95 % confidence {_at_worst(bounds.low)} {allowed}"
    elif grade == "D":
        reason = f"inferior: with 95 % confidence at least {-bounds.high:.2g} nats per token more {allowed}"
    else:
        reason = f"neither shown: it may take {_at_worst(bounds.low).removeprefix('at most ')} {allowed}"
        if pair_grade(bounds.low, bounds.high, margin, 0.0) == "B":
            several = counted(family, "candidate")
            reason = f"not shown after adjustment for {several}: {_at_worst(bounds.low)} {allowed}"
        left, examples = float(margin) - max(likelihood.delta or 0.0, 0.0), None
        if left > 0 and row.n is not None:
            needed = examples_for_mean((likelihood.spread or 0.0) ** 2, left, level=0.05 / family)
            examples = None if needed is None else max(needed, row.n + 1)
        needs = NextGrade(grade="B", examples=examples, seeds=None)
    changes = {"grade": grade, "reason": reason, "adjusted_p": adjusted, "next_grade": needs}
    return EvaluatedAdapter(**{**dict(row), **changes})


def _at_worst(low: float) -> str:
    return f"at most {-low:.2g} nats per token more" if low < 0 else f"at least {low:.2g} nats per token less"


def _columns(answers: Evaluation[Any]) -> tuple[Sequence[float], Sequence[int]]:
    """Log-likelihood and tokens of each response."""
    return [row.loglikelihood for row in answers.records], [row.n_tokens for row in answers.records]
