"""The predicted accuracy drop of a smaller adapter: the fitted model, and where it was tested. Pure.

The share of the reference's correct answers that a smaller adapter loses is 1 − exp(−A·x^B), x the predicted KL per
answer in nats. `benchmarks/predicted_drop.py fit` fitted A, B and the upper end by maximum likelihood on the nine cells
of `benchmarks/results/calibrate_*` (three tasks, three seeds). How the model is judged was fixed before any new cell
was measured: docs/decisions/031-predicted-drop.md. Results: docs/results/predicted_drop.md.
"""

from __future__ import annotations

import math

from gradience.words import listed

A, B = 0.6637, 0.5903
UPPER = 2.143
"""Factor of A·x^B at the 90 % upper end: Student's quantile, 2 degrees of freedom, times the spread of a new task."""
BASIS = "90 %, fitted on three tasks"
MARGIN = 2.5
"""Largest drop at the upper end of a recommended size, in points."""
MAX_TOKENS, MIN_ROWS = 60, 200
"""Tokens of an answer at most, and rows that predict at least. The cells had 256."""
BASES = {"bert": "MiniLM-L6", "llama": "SmolLM2-135M"}
"""Type of the base in its config.json -> the base of this type in the cells."""


def points(kl_per_answer: float, accuracy: float | None = None) -> tuple[float, float]:
    """Return the predicted accuracy drop and its 90 % upper end, in points.

    >>> [round(drop, 2) for drop in points(0.01, accuracy=0.9)]
    [3.86, 8.06]

    kl_per_answer: predicted KL per scored token times scored tokens per answer, in nats.
    accuracy: the reference's, from 0 to 1; without one, it is taken to be 1.
    """
    lost = A * kl_per_answer**B
    whole = 100 * (1.0 if accuracy is None else accuracy)
    return -whole * math.expm1(-lost), -whole * math.expm1(-lost * UPPER)


def outside(tokens: float, rows: int, model_type: str, routing: str = "") -> str:
    """Return what is outside the range in which the model was tested, in words; empty if nothing is.

    >>> outside(tokens=120, rows=256, model_type="llama")
    'answers of 120 tokens on average (tested: at most 60)'

    tokens: scored tokens of an average answer. rows: rows that predict. routing: of a mixture of experts.
    """
    reasons = [f"a base that routes each token to {routing}"] if routing else []
    if model_type not in BASES:
        reasons.append(f"a base of type {model_type or 'unknown'} (tested: {listed(list(BASES.values()))})")
    if tokens > MAX_TOKENS:
        reasons.append(f"answers of {tokens:.0f} tokens on average (tested: at most {MAX_TOKENS})")
    if rows < MIN_ROWS:
        reasons.append(
            f"{rows} rows that predict (tested: 256; calibrate on at least {2 * MIN_ROWS} prompts)"
        )
    return "; ".join(reasons)
