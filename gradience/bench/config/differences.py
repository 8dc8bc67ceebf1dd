"""Two configs as JSON has them -> the settings in which they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

UNCOUNTED = ("runtime", "run_type", "bench_version", "task.folder", "model.folder")
"""What changes no number in a config: the machine, labels, and where paths start."""


class Difference(NamedTuple):
    """One setting, and its two values; None where one config does not have it."""

    key: str
    a: Any
    b: Any


def differences(
    a: Mapping[str, Any], b: Mapping[str, Any], *, ignored: Sequence[str] = UNCOUNTED
) -> list[Difference]:
    """Return what differs between two configs outside the sections `ignored`, by key.

    >>> differences({"train": {"lr": 1e-4}, "seeds": [1]}, {"train": {"lr": 2e-4}, "seeds": [1]})
    [Difference(key='train.lr', a=0.0001, b=0.0002)]
    """
    left, right = dict(_flat(a)), dict(_flat(b))
    keys = (key for key in sorted({*left, *right}) if not {key, key.partition(".")[0]} & set(ignored))
    return [Difference(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{before}{key}.")
        else:
            yield f"{before}{key}", item
