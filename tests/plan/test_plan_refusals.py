"""What no plan is made for, and why."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from audit_sample import report, row, small_report

from gradience.errors import GradienceError, InputError, UsageError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import ToBudget, ToEnergy, ToRank, ToSuggestion
from gradience.reports.audit import TensorNote
from gradience.reports.base.finding import Finding


@pytest.mark.parametrize(
    "code", ["init-not-update", "variant-not-update", "expert-order-unknown", "non-finite"]
)
def test_updates_that_are_not_b_times_a(code):
    finding = Finding(code=code, severity="error", message="B·A is not the update", hint="say so")
    with pytest.raises(InputError) as refusal:
        plan_compression(small_report([2.0, 1.0], findings=[finding]), ToRank(1))
    assert refusal.value.code == code
    assert "./my-adapter" in str(refusal.value)
    assert refusal.value.hint == "say so"


def test_tensors_that_were_not_understood():
    note = TensorNote(tensor="strange", reason="unknown tensor", params=3)
    with pytest.raises(InputError, match="1 tensor was not understood, the first is strange"):
        plan_compression(small_report([2.0, 1.0], unaudited=[note]), ToRank(1))


def test_a_norm_beyond_double_precision():
    layer = replace(row("m.0", np.array([1.0]), r=1, shape=(8, 8)), singular_values=())
    with pytest.raises(InputError) as refusal:
        plan_compression(report([layer], with_gain=False), ToRank(1))
    assert refusal.value.code == "overflow"


def test_no_suggestion_to_follow():
    with pytest.raises(InputError) as refusal:
        plan_compression(small_report([2.0, 1.0], suggest=False), ToSuggestion("uniform_p90"))
    assert refusal.value.code == "no-suggestion"


@pytest.mark.parametrize(
    ("criterion", "options", "code"),
    [
        (ToRank(0), {}, "bad-rank"),
        (ToRank(-4), {}, "bad-rank"),
        (ToEnergy(0.0), {}, "bad-tau"),
        (ToEnergy(1.1), {}, "bad-tau"),
        (ToEnergy(math.nan), {}, "bad-tau"),
        (ToBudget(), {}, "several-criteria"),
        (ToBudget(reduction=0.5, max_params=10), {}, "several-criteria"),
        (ToBudget(reduction=1.0), {}, "bad-budget"),
        (ToBudget(reduction=-0.1), {}, "bad-budget"),
        (ToBudget(reduction=math.nan), {}, "bad-budget"),
        (ToBudget(max_params=0), {}, "bad-budget"),
        (ToBudget(max_error=1.0), {}, "bad-budget"),
        (ToBudget(max_error=-0.1), {}, "bad-budget"),
        (ToBudget(max_params=15), {}, "empty-plan"),
        (ToRank(2), {"allowed_ranks": [], }, "bad-grid"),
        (ToRank(2), {"allowed_ranks": [0, 4]}, "bad-grid"),
    ],
    ids=str,
)  # fmt: skip
def test_criteria_that_make_no_sense(criterion, options, code):
    audited = small_report([1.0], shapes=((8, 8),))
    with pytest.raises(GradienceError) as refusal:
        plan_compression(audited, criterion, **options)
    assert refusal.value.code == code
    assert refusal.value.exit_code == 2
    assert refusal.value.hint


@pytest.mark.parametrize("budget", [ToBudget(max_params=31), ToBudget(reduction=0.8)], ids=str)
def test_a_budget_below_what_must_stay(budget):
    """Two DoRA modules keep one component each: 32 parameters."""
    audited = small_report(
        [2.0, 1.0, 1.0, 1.0], [2.0, 1.0, 1.0, 1.0], shapes=((8, 8),), adapter={"use_dora": True}
    )
    with pytest.raises(UsageError, match=r"cannot be met: modules that must be kept need 32") as refusal:
        plan_compression(audited, budget)
    assert refusal.value.code == "bad-budget"
