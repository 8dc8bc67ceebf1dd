"""The sizes that one may ask for: each has a name, which its keyword and its flag share, and becomes a criterion."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gradience.arguments import integer_argument, number_argument, path_argument, wrong_type
from gradience.errors import UsageError
from gradience.files.shared_names import given_text
from gradience.plan.calibrated import ToKl
from gradience.plan.criteria import Criterion, ToBudget, ToEnergy, ToPlan, ToRank, ToSuggestion
from gradience.reports.compression import CompressionPlan


class Size(NamedTuple):
    """One way to ask for a size: makes the value of a user one for the criterion, or raises WrongType."""

    value: Callable[[str, Any], Any]
    criterion: Callable[[Any], Criterion]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong_type(name, value, "a name, such as 'uniform_median'")
    return value


def _plan(name: str, value: Any) -> ToPlan:
    if isinstance(value, CompressionPlan):
        return ToPlan(value)
    if not isinstance(value, str | os.PathLike):
        raise wrong_type(name, value, "a CompressionPlan, or the path of one")
    path = path_argument(name, value)
    return ToPlan(CompressionPlan.read(path), given_text(path))


def _budget(name: str) -> Callable[[Any], Criterion]:
    return lambda value: ToBudget(**{name: value})


SIZES: dict[str, Size] = {
    "rank": Size(integer_argument, ToRank),
    "energy": Size(number_argument, ToEnergy),
    "suggested": Size(_text, ToSuggestion),
    "reduction": Size(number_argument, _budget("reduction")),
    "max_params": Size(integer_argument, _budget("max_params")),
    "max_bytes": Size(integer_argument, _budget("max_bytes")),
    "max_error": Size(number_argument, _budget("max_error")),
    "max_kl": Size(number_argument, ToKl),
    "plan": Size(_plan, lambda plan: plan),
}


def criterion_of(given: Mapping[str, Any], spelled: Callable[[str], str] = str) -> Criterion:
    """Return the one criterion that was given; None stands for one that was not.

    given: name in SIZES -> value.   spelled: a name as the user types it, such as `--rank`.
    Raises UsageError for none or several, InputError for a plan that cannot be read.
    """
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        what = f"give only one of {' and '.join(map(spelled, names))}" if names else "no target size given"
        raise UsageError(
            what, code="several-criteria", hint=f"give exactly one of {', '.join(map(spelled, SIZES))}"
        )
    size = SIZES[names[0]]
    return size.criterion(size.value(names[0], given[names[0]]))
