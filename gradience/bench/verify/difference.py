"""Two values of JSON, one recorded and one computed again: where they differ, by the names of things."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

CLOSE = 1e-9
"""Relative to the larger one, and absolute: two ways of adding up the same numbers may differ in their last bits."""
NAMES = ("name", "seed", "role")
"""What tells the entries of a list apart, where they have it."""


class Difference(NamedTuple):
    """One place in which they differ."""

    field: str
    what: str
    is_text: bool
    """Whether both are sentences, which another version may word in another way."""
    unrecorded: bool = False
    """The recorded one does not have the field at all, as in a file of an earlier version."""
    recorded: Any = None


def differences(
    recorded: Any, computed: Any, *, ignored: Collection[str] = (), at: str = ""
) -> Iterator[Difference]:
    """Yield where the two differ. Counts and texts must be equal, floats to 1e-9; null and a missing key are one.

    ignored: fields that are not compared, by their whole names.
    """
    if at in ignored:
        return
    if isinstance(recorded, Mapping) and isinstance(computed, Mapping):
        for key in (*computed, *(key for key in recorded if key not in computed)):
            where = f"{at}.{key}" if at else str(key)
            if key in recorded:
                yield from differences(recorded[key], computed.get(key), ignored=ignored, at=where)
            elif computed[key] and where not in ignored:
                yield Difference(
                    where, f"not recorded; by the records {_shown(computed[key])}", False, unrecorded=True
                )
    elif isinstance(recorded, list) and isinstance(computed, list):
        yield from _of_lists(recorded, computed, ignored, at)
    elif not _equal(recorded, computed):
        is_text = isinstance(recorded, str) and isinstance(computed, str)
        yield Difference(
            at, f"{_shown(recorded)} recorded, {_shown(computed)} by the records", is_text, recorded=recorded
        )


def _of_lists(
    recorded: list[Any], computed: list[Any], ignored: Collection[str], at: str
) -> Iterator[Difference]:
    key = next(
        (name for name in NAMES if all(isinstance(e, Mapping) and name in e for e in (*recorded, *computed))),
        None,
    )
    if key is None or not recorded or not computed:
        if len(recorded) != len(computed):
            yield Difference(
                at, f"{len(recorded)} recorded, {len(computed)} by the records", _all_text(recorded, computed)
            )
            return
        for place, (one, other) in enumerate(zip(recorded, computed, strict=True)):
            yield from differences(one, other, ignored=ignored, at=f"{at}.{place}")
        return
    ours, theirs = ({str(entry[key]): entry for entry in entries} for entries in (recorded, computed))
    if list(ours) != list(theirs):
        yield Difference(at, f"{', '.join(ours)} recorded; {', '.join(theirs)} by the records", False)
    for name in ours.keys() & theirs.keys():
        yield from differences(ours[name], theirs[name], ignored=ignored, at=f"{at}.{name}")


def _all_text(*lists: list[Any]) -> bool:
    return all(isinstance(entry, str) for entries in lists for entry in entries)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return _is_nothing(one) and _is_nothing(other) if one is None or other is None else bool(one == other)


def _is_nothing(value: Any) -> bool:
    """null, and what a field that is not there stands for: an empty text, list or mapping."""
    return value is None or value in ("", [], {})


def _shown(value: Any) -> str:
    return "nothing" if _is_nothing(value) else str(value)
