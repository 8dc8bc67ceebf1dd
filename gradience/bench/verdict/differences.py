"""The fields in which two JSON values differ."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

NAMES = ("name", "seed", "role")
"""Fields that identify the entries of a list."""
CLOSE = 1e-9
"""Relative and absolute tolerance: sums of the same numbers in different order may differ in their last bits."""


class Difference(NamedTuple):
    """One field in which two values differ."""

    field: str
    a: Any
    b: Any


def differences(a: Any, b: Any, *, ignored: Collection[str] = (), at: str = "") -> Iterator[Difference]:
    """Yield the fields in which two values differ. Floats are compared to 1e-9; null equals a missing key.

    >>> [*differences({"train": {"lr": 1e-4}, "seeds": [1]}, {"train": {"lr": 2e-4}, "seeds": [1]})]
    [Difference(field='train.lr', a=0.0001, b=0.0002)]

    ignored: full names of fields that are not compared, nor their subfields.
    """
    if at in ignored:
        return
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in (*b, *(key for key in a if key not in b)):
            yield from differences(
                a.get(key), b.get(key), ignored=ignored, at=f"{at}.{key}" if at else str(key)
            )
    elif isinstance(a, list) and isinstance(b, list) and _is_table(a) and _is_table(b):
        ours, theirs = _by_name(a), _by_name(b)
        if list(ours) != list(theirs):
            yield Difference(at, list(ours), list(theirs))
        for name in ours.keys() & theirs.keys():
            yield from differences(ours[name], theirs[name], ignored=ignored, at=f"{at}.{name}")
    elif not is_equal(a, b):
        yield Difference(at, a, b)


def _is_table(entries: list[Any]) -> bool:
    return bool(entries) and all(isinstance(entry, Mapping) for entry in entries)


def _by_name(rows: list[Any]) -> dict[str, Any]:
    """Return a table's rows by identifying field, or else by position."""
    key = next((name for name in NAMES if all(name in row for row in rows)), None)
    return {str(place if key is None else row[key]): row for place, row in enumerate(rows)}


def is_equal(a: Any, b: Any) -> bool:
    """Return True if two values are equal. Floats are compared to 1e-9; null equals a missing key or an empty value."""
    if a is None or b is None:
        return _is_nothing(a) and _is_nothing(b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(is_equal, a, b))
    if isinstance(a, float) or isinstance(b, float):
        are_numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return are_numbers and math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE)
    return bool(a == b)


def _is_nothing(value: Any) -> bool:
    return value is None or value in ("", [], {})
