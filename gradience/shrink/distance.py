"""How far one adapter's outputs are from another's, row by row: where few answers change, this still tells sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradience.evaluate.answering import Answers
from gradience.evaluate.comparison import kl_divergence
from gradience.files.records import Evaluation
from gradience.reports.shrink import MeanInterval, OutputDistance

Values = NDArray[np.float64]


def distance(reference: Answers, row: Answers, control: Answers | None) -> OutputDistance | None:
    """Return the paired means of a row. control: the rewrite control, whose KL is the floor; None for itself."""
    if row.answers is None:
        return None
    before, after = nll_rows(reference), nll_rows(row)
    kl = kl_rows(reference, row)
    floor = None if control is None else kl_rows(reference, control)
    return OutputDistance(
        nll=None if before is None or after is None else mean_interval(after - before),
        kl=None if kl is None else mean_interval(kl),
        kl_above_floor=None if kl is None or floor is None else mean_interval(kl - floor),
    )


def nll_rows(row: Answers) -> Values | None:
    """−log p of each gold label or response, in nats; None where it is not known."""
    from scipy.special import log_softmax

    scores = _scores(row)
    if scores is not None:
        return np.array([-record.loglikelihood for record in scores.records], dtype=np.float64)
    logits = _logits(row.answers)
    if logits is None or row.answers is None:
        return None
    labels = [record.label for record in row.answers.records]
    return np.asarray(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels])


def kl_rows(reference: Answers, row: Answers) -> Values | None:
    """KL(reference ‖ row) of each example, in nats; None where it is not known."""
    scores = _scores(row)
    if scores is not None:
        values = [record.kl for record in scores.records]
        return None if None in values else np.array(values, dtype=np.float64)
    logits, other = _logits(reference.answers), _logits(row.answers)
    return None if logits is None or other is None else kl_divergence(logits, other)


def mean_interval(values: Values) -> MeanInterval:
    """Return the mean with Student's 95 % interval."""
    from gradience.statistics.paired import mean_difference

    low, high = mean_difference(values) if len(values) > 1 else (None, None)
    return MeanInterval(mean=float(values.mean()), low=low, high=high)


def _logits(answers: Evaluation[Any] | None) -> Values | None:
    if answers is None or answers.run.kind != "classification":
        return None
    return np.array([record.logits for record in answers.records], dtype=np.float64)


def _scores(row: Answers) -> Evaluation[Any] | None:
    """Of the gold responses; where likelihoods are compared they are the answers."""
    answers = row.answers
    return answers if answers is not None and answers.run.kind == "scores" else row.scores
