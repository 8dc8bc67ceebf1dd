"""The grade: a total function, the first match wins."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradience.bench.verdict.grade import GradeFacts, faults, grade, short_of_a, supported
from gradience.reports.base.graded import Bounds

MARGIN = Fraction("0.025")


def bounds(low: float, high: float, p_value: float | None = None) -> Bounds:
    shown = low > -0.025
    return Bounds(low=low, high=high, p_value=(0.01 if shown else 0.2) if p_value is None else p_value)


def facts(**changes: Any) -> GradeFacts:
    """A variant that deserves an A, with changes."""
    good = GradeFacts(
        passes=True, margin=MARGIN, seeds=3, these_runs=bounds(-0.010, 0.008), new_run=bounds(-0.013, 0.011),
        adjusted_p=0.02, family=2,
    )  # fmt: skip
    return replace(good, **changes)


INVALID: dict[str, dict[str, Any]] = {
    "the probe did not pass its gate": {"gate_passed": False},
    "pairs are missing": {"pairs_complete": False},
    "precisions are mixed": {"one_engine": False},
    "its scale was not held": {"scale_held": False},
    "a duplicate configuration": {"same_as": "uniform_median"},
    "unseeded": {"seeded": False},
    "a control that must fail passed": {"blind": "random_directions"},
}
ROWS: dict[str, tuple[str, dict[str, Any], str]] = {
    **{why: ("X", change, "invalid: ") for why, change in INVALID.items()},
    "inferior": (
        "D",
        {"these_runs": bounds(-0.06, -0.026)},
        "at least 2.60 points fewer correct than the probe (margin 2.5 points)",
    ),
    "inferior although it passes": ("D", {"these_runs": bounds(-0.06, -0.0251)}, "inferior"),
    "invalid goes before inferior": ("X", {"seeded": False, "these_runs": bounds(-0.06, -0.03)}, "seeded"),
    "upper bound at the margin exactly is not inferior": (
        "C", {"these_runs": bounds(-0.06, -0.025), "new_run": bounds(-0.07, -0.02)}, "policy",
    ),
    "certified": ("A", {}, "at most 1.30 points fewer correct than the probe in a new training run too"),
    "certified and better": ("A", {"new_run": bounds(0.004, 0.02)}, "at least 0.40 points more correct"),
    "a new run is not shown": (
        "B",
        {"new_run": bounds(-0.031, 0.02), "adjusted_p": 0.2},
        "not A: in a new training run it may have 3.10 points fewer correct",
    ),
    "a new run is not shown after Holm": ("B", {"adjusted_p": 0.051}, "after adjustment for 2 claims"),
    "two seeds": ("B", {"seeds": 2}, "not A: 2 seeds, and 3 or more are needed"),
    "one seed": ("B", {"seeds": 1, "new_run": None, "adjusted_p": None}, "not A: 1 seed, and 3"),
    "confirm split touched": ("B", {"confirm_untouched": False}, "not A: not all of an untouched confirm split"),
    "plan not followed": ("B", {"plan_followed": False}, "not A: the seeds do not follow one plan"),
    "records not verified": ("B", {"records_verified": False}, "not A: its records were not verified"),
    "passes and not shown": (
        "C",
        {"these_runs": bounds(-0.028, 0.01), "new_run": bounds(-0.03, 0.012), "adjusted_p": 0.2},
        "passes the policy, and is not shown to be as good: it may have 2.80 points fewer",
    ),
    "lower bound at the margin exactly is not shown": (
        "C", {"these_runs": bounds(-0.025, 0.01), "new_run": bounds(-0.026, 0.02)}, "not shown",
    ),
    "fails, and neither is shown": ("C", {"passes": False, "these_runs": bounds(-0.05, -0.01)}, "fails the policy"),
    "fails, statistically non-inferior": ("C", {"passes": False}, "policy FAIL, statistically non-inferior"),
    "answers are not in the file": (
        "C",
        {"these_runs": None, "new_run": None, "adjusted_p": None},
        "example by example, are not in the file",
    ),
    "a rung below the stop": ("C", {"untested": "rank 4"}, "not tested, since the sequence stopped at rank 4"),
    "a rung below the stop that is inferior": (
        "D", {"untested": "rank 4", "these_runs": bounds(-0.09, -0.05)}, "inferior",
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
    gate_passed=st.booleans(), pairs_complete=st.booleans(), one_engine=st.booleans(), scale_held=st.booleans(),
    same_as=st.sampled_from(["", "uniform_p90"]), seeded=st.booleans(), blind=st.sampled_from(["", "head_only"]),
    passes=st.booleans(), margin=st.sampled_from([Fraction("0.01"), MARGIN]), these_runs=intervals, new_run=intervals,
    adjusted_p=st.none() | st.floats(0, 1), family=st.integers(1, 9), untested=st.sampled_from(["", "rank 8"]),
    seeds=st.integers(0, 6), confirm_untouched=st.booleans(), plan_followed=st.booleans(),
    records_verified=st.booleans(),
)  # fmt: skip
VALID: dict[str, Any] = {
    "gate_passed": True, "pairs_complete": True, "one_engine": True, "scale_held": True, "same_as": "", "seeded": True,
    "blind": "",
}  # fmt: skip


@given(any_facts)
def test_every_variant_has_one_grade_and_the_first_that_matches(some: GradeFacts) -> None:
    """Each grade's own condition, in the order of the list; whatever the policy says, C remains."""
    for one, earlier in ((some, True), (replace(some, **VALID), False)):
        letter, reason = grade(one)
        f, r, m = one.these_runs, one.new_run, one.margin
        is_x = any(getattr(one, name) != value for name, value in VALID.items())
        is_d = f is not None and Fraction(str(f.high)) < -m
        is_a = (
            one.passes and not one.untested and one.seeds >= 3 and one.confirm_untouched and one.plan_followed
            and one.records_verified and r is not None and Fraction(str(r.low)) > -m
            and one.adjusted_p is not None and Fraction(str(one.adjusted_p)) <= Fraction(1, 20)
        )  # fmt: skip
        is_b = one.passes and not one.untested and f is not None and Fraction(str(f.low)) > -m
        expected = "X" if is_x else "D" if is_d else "A" if is_a else "B" if is_b else "C"
        assert (letter, bool(reason)) == (expected, True)
        assert earlier or letter != "X"


@given(any_facts)
def test_what_is_said_to_be_missing_is_what_is_missing(some: GradeFacts) -> None:
    assert (grade(some).grade == "X") == bool(faults(some))
    valid = replace(some, **VALID)
    if grade(valid).grade == "A":
        assert not short_of_a(valid)
    if grade(valid).grade == "B":
        assert short_of_a(valid)
        assert supported(valid)


@given(any_facts, st.sampled_from(sorted(INVALID)))
def test_no_evidence_makes_up_for_an_invalid_run(some: GradeFacts, why: str) -> None:
    assert grade(replace(some, **INVALID[why])).grade == "X"
