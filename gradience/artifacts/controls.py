"""What each control of Bench must come to, for the test to have been able to see a difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

EXPECTED: Mapping[str, Literal["PASS", "FAIL"]] = {
    "random_directions": "FAIL",
    "head_only": "FAIL",
    "aa": "PASS",
}
"""Control -> the status that it must have. `per_layer_shuffled` may have any: it is there to be compared with."""

CANNOT_TELL = "the task cannot tell good from bad"


def as_expected(name: str, status: str) -> bool | None:
    """Whether a control with this status is what it must be; None where nothing is expected, or nothing is known.

    >>> as_expected("head_only", "PASS"), as_expected("aa", "PASS"), as_expected("aa", "SKIPPED")
    (False, True, None)
    """
    expected = EXPECTED.get(name)
    return None if expected is None or status not in ("PASS", "FAIL") else status == expected


def passes_and_must_fail(name: str, status: str) -> bool:
    """Whether a control that must fail has passed."""
    return EXPECTED.get(name) == "FAIL" and status == "PASS"
