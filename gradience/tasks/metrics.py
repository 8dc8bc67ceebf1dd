"""Standard metrics for predicted labels, with scikit-learn's definitions (extra `bench`)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from gradience.errors import require


def _known(name: str) -> str:
    if name not in METRICS:
        raise PydanticCustomError("metric", "Input should be one of {names}", {"names": ", ".join(METRICS)})
    return name


Metric = Annotated[str, AfterValidator(_known)]
"""A name in `METRICS`."""


def score(metric: Metric, labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Return `metric` of `predictions` against the true `labels`; both are indices into the same list of
    label names.

    accuracy: the share of equal ones. f1: of label 1, as GLUE uses it for MRPC and QQP; 0 if label 1 occurs
    neither among labels nor among predictions. matthews: the correlation coefficient, in [-1, 1]; 0 if all
    labels or all predictions are the same, as in scikit-learn.
    Raises MissingExtra, and ValueError for empty input, different lengths, and f1 with more than two labels.
    """
    if not labels or len(labels) != len(predictions):
        raise ValueError(f"{len(labels)} labels and {len(predictions)} predictions cannot be compared")
    return METRICS[metric](require("sklearn.metrics", extra="bench"), labels, predictions)


def _accuracy(sklearn: Any, labels: Sequence[int], predictions: Sequence[int]) -> float:
    return float(sklearn.accuracy_score(labels, predictions))


def _f1(sklearn: Any, labels: Sequence[int], predictions: Sequence[int]) -> float:
    if not {*labels, *predictions} <= {0, 1}:
        raise ValueError("f1 needs the labels 0 and 1, but there are others")
    return float(sklearn.f1_score(labels, predictions, pos_label=1, zero_division=0.0))


def _matthews(sklearn: Any, labels: Sequence[int], predictions: Sequence[int]) -> float:
    if len(set(labels)) == 1 or len(set(predictions)) == 1:
        return 0.0  # scikit-learn says the same, with a warning
    return float(sklearn.matthews_corrcoef(labels, predictions))


METRICS: dict[str, Callable[[Any, Sequence[int], Sequence[int]], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
}
