"""The grade: a total function, the first match wins."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.bench.verdict.grade import GradeFacts, grade, short_of_a
from gradience.reports.base.graded import Bounds

MARGIN = Fraction("0.025")


def bounds(low: float, high: float, p_value: float | None = None) -> Bounds:
    shown = low > -0.025
    return Bounds(low=low, high=high, p_value=(0.01 if shown else 0.2) if p_value is None else p_value)


def facts(**changes: Any) -> GradeFacts:
    """A variant that deserves an A, with changes."""
    good = GradeFacts(
        passes=True, margin=MARGIN, seeds=3, these_runs=bounds(-0.010, 0.008), next_training=bounds(-0.013, 0.011),
        adjusted_p=0.02, family=2,
    )  # fmt: skip
    return replace(good, **changes)


ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    "invalid": ("X", {"faults": ("not seeded", "one engine")}, "invalid: not seeded; one engine"),
    "inferior": (
        "D",
        {"these_runs": bounds(-0.06, -0.026)},
        "accuracy is at least 2.60 points lower (95 % confidence, margin 2.5 points)",
    ),
    "inferior although it passes": ("D", {"these_runs": bounds(-0.06, -0.0251)}, "worse"),
    "invalid goes before inferior": ("X", {"faults": ("not seeded",), "these_runs": bounds(-0.06, -0.03)}, "seeded"),
    "upper bound at the margin exactly is not inferior": (
        "C", {"these_runs": bounds(-0.06, -0.025), "next_training": bounds(-0.07, -0.02)}, "policy",
    ),
    "certified": (
        "A", {}, "accuracy of the next training is at most 1.30 points lower, if trainings vary normally",
    ),
    "certified and better": ("A", {"next_training": bounds(0.004, 0.02)}, "at least 0.40 points higher"),
    "the next training is not shown": (
        "B",
        {"next_training": bounds(-0.031, 0.02), "adjusted_p": 0.2},
        "not A: accuracy of the next training, if trainings vary normally, may be up to 3.10 points lower",
    ),
    "the next training is not shown after Holm": ("B", {"adjusted_p": 0.051}, "after adjustment for 2 claims"),
    "these runs are not shown after Holm": (
        "C", {"adjusted_p_these_runs": 0.051}, "inconclusive after adjustment for 2 claims",
    ),
    "two seeds": ("B", {"seeds": 2}, "not A: 2 seeds (3 or more needed)"),
    "one seed": ("B", {"seeds": 1, "next_training": None, "adjusted_p": None}, "not A: 1 seed (3"),
    "something else stands in the way": ("B", {"obstacles": ("not verified",)}, "not A: not verified"),
    "passes and not shown": (
        "C",
        {"these_runs": bounds(-0.028, 0.01), "next_training": bounds(-0.03, 0.012), "adjusted_p": 0.2},
        "inconclusive, and passes the policy: accuracy may be up to 2.80 points lower",
    ),
    "lower bound at the margin exactly is not shown": (
        "C", {"these_runs": bounds(-0.025, 0.01), "next_training": bounds(-0.026, 0.02)}, "inconclusive",
    ),
    "fails, and neither is shown": ("C", {"passes": False, "these_runs": bounds(-0.05, -0.01)}, "fails the policy"),
    "fails, statistically non-inferior": ("C", {"passes": False}, "non-inferior in these runs, but fails the policy"),
    "answers are not in the file": (
        "C",
        {"these_runs": None, "next_training": None, "adjusted_p": None},
        "per-example answers are missing",
    ),
    "a step below the stop": ("C", {"untested": "rank 4"}, "not tested: the sequence stopped at rank 4"),
    "a step below the stop that is inferior": (
        "D", {"untested": "rank 4", "these_runs": bounds(-0.09, -0.05)}, "worse",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_worked_example(row: str) -> None:
    expected, changes, words = ROWS[row]
    result = grade(facts(**changes))
    assert result.grade == expected
    assert words in result.reason
    assert "\n" not in result.reason


differences = st.floats(-0.2, 0.2)
intervals = st.none() | st.builds(
    lambda a, b, p: bounds(min(a, b), max(a, b), p), differences, differences, st.floats(0, 1)
)
any_facts = st.builds(
    GradeFacts,
    faults=st.sampled_from([(), ("not seeded",)]), obstacles=st.sampled_from([(), ("not verified",)]),
    passes=st.booleans(), margin=st.sampled_from([Fraction("0.01"), MARGIN]), these_runs=intervals,
    next_training=intervals,
    adjusted_p=st.none() | st.floats(0, 1), family=st.integers(1, 9), untested=st.sampled_from(["", "rank 8"]),
    seeds=st.integers(0, 6),
)  # fmt: skip


@given(any_facts)
def test_every_variant_has_one_grade_and_the_first_that_matches(some: GradeFacts) -> None:
    """Each grade's own condition, in the order of the list; whatever the policy says, C remains."""
    letter, reason = grade(some)
    f, r, m = some.these_runs, some.next_training, some.margin
    is_d = f is not None and Fraction(str(f.high)) < -m
    is_a = (
        some.passes and not some.untested and some.seeds >= 3 and not some.obstacles
        and r is not None and Fraction(str(r.low)) > -m
        and some.adjusted_p is not None and Fraction(str(some.adjusted_p)) <= Fraction(1, 20)
    )  # fmt: skip
    is_b = some.passes and not some.untested and f is not None and Fraction(str(f.low)) > -m
    expected = "X" if some.faults else "D" if is_d else "A" if is_a else "B" if is_b else "C"
    assert (letter, bool(reason)) == (expected, True)
    if letter == "A":
        assert not short_of_a(some)
    if letter == "B":
        assert short_of_a(some)
