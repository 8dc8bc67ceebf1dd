"""The shape of one line of run.jsonl, and the step from Python values to strict JSON and back.

The envelope (`schema`, `ts`, `run_id`, `event`, `step`) and the events are those of the
original project, so its files read as well. The fields of an event are beside those of the envelope.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gradience.arguments import is_number

SCHEMA = "gradience.vnext.telemetry/v1"
"""The schema id. It changes when a required field changes its meaning, and only then."""

ENVELOPE = ("schema", "ts", "run_id", "event", "step")

NONFINITE = "nonfinite"
"""The key that says which fields of a line were NaN or infinite: `{"loss": "nan"}`."""

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


@dataclass(frozen=True, slots=True)
class Record:
    """One line that was read.

    `ts` is a wall-clock label in seconds since 1970, or None; durations are in `data`
    (`elapsed_s`, from a monotonic clock). `line` counts from 1.
    """

    event: str
    run_id: str
    step: int | None
    ts: float | None
    line: int
    data: dict[str, Json] = field(repr=False)

    def get(self, *keys: str) -> Json:
        """Return the value under a path of keys; None if there is none.

        `record.get("metrics", "loss")` reads `{"metrics": {"loss": 0.7}}`.
        """
        value: Json = self.data
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def number(self, *keys: str) -> float | None:
        """Return the number under a path, NaN and infinity restored; None if there is none."""
        value = self.get(*keys)
        if is_number(value):
            return float(value)
        mark = self.get(NONFINITE, ".".join(keys))
        return float(mark) if mark in ("nan", "inf", "-inf") else None

    def text(self, *keys: str) -> str | None:
        """Return the string under a path; None if there is none."""
        value = self.get(*keys)
        return value if isinstance(value, str) else None

    def mapping(self, *keys: str) -> Mapping[str, Json]:
        """Return the object under a path; empty if there is none."""
        value = self.get(*keys)
        return value if isinstance(value, Mapping) else {}


def strict(value: object, *, at: str = "", marks: dict[str, str] | None = None) -> Json:
    """`value` as something that every JSON reader accepts.

    NaN and infinity become null and are named in `marks` by their dotted path. What JSON cannot
    hold is written as its type's name, because a log line must never raise in a training loop,
    and never hold the text of an arbitrary object.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        if marks is not None:
            marks[at] = "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
        return None
    if isinstance(value, Mapping):
        return {
            str(key): strict(item, at=f"{at}.{key}" if at else str(key), marks=marks)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [strict(item, at=f"{at}.{i}", marks=marks) for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return strict(sorted(value, key=str), at=at, marks=marks)
    return f"<{type(value).__name__}>"


def encode(envelope: Mapping[str, object], payload: Mapping[str, object]) -> bytes:
    """One line, newline included, in strict JSON and plain ASCII."""
    marks: dict[str, str] = {}
    body = strict({**envelope, **payload}, marks=marks)
    assert isinstance(body, dict)  # a mapping goes in, so a mapping comes out
    if marks:
        body[NONFINITE] = marks
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"
