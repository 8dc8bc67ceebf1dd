"""Ranks given module by module, and plans that are read back: everything but the ranks is worked out anew."""

from __future__ import annotations

import numpy as np
import pytest
from audit_sample import report, row

from gradience.errors import UsageError
from gradience.plan.compression import plan_compression
from gradience.plan.criteria import EDITED, ToPlan, ToRank, ToRanks
from gradience.reports.compression import CompressionPlan

SIGMA = np.array([4.0, 2.0, 1.0, 0.5])


def audited(**more):
    rows = [row(name, SIGMA, r=4, shape=(8, 16)) for name in ("a", "b", "c")]
    return report(rows, with_gain=False, **more)


def changed(plan: CompressionPlan, **new_ranks: int) -> CompressionPlan:
    """The plan with other ranks and everything else as it stood, as an editor leaves it."""
    content = plan.model_dump(mode="json")
    for module in content["modules"]:
        module["new_rank"] = new_ranks.get(module["name"], module["new_rank"])
    return CompressionPlan.model_validate(content)


def test_a_plan_read_back_is_the_same_plan(tmp_path):
    plan = plan_compression(audited(), ToRank(2))
    read = CompressionPlan.read(plan.save(tmp_path / "plan.json"))
    assert plan_compression(audited(), ToPlan(read)) == plan


def test_an_edited_plan_is_worked_out_anew_and_says_so():
    plan = plan_compression(audited(), ToRank(2))
    edited = changed(plan, a=4, c=1)
    again = plan_compression(audited(), ToPlan(edited))
    assert again.model_copy(update={"criterion": ""}) == plan_compression(
        audited(), ToRanks({"a": 4, "b": 2, "c": 1}, "")
    )
    assert again.criterion == plan.criterion + EDITED
    twice = plan_compression(audited(), ToPlan(changed(again, a=1)))
    assert twice.criterion == plan.criterion + EDITED


@pytest.mark.parametrize(
    ("ranks", "code", "words"),
    [
        ({"a": 2, "b": 2}, "plan-mismatch", "the ranks: no rank for c"),
        ({"a": 2, "b": 2, "c": 2, "d": 2}, "plan-mismatch", "the ranks: d is no module of the adapter"),
        ({"a": 2, "b": 2, "c": 5}, "bad-rank", "rank 5 for c: its rank is 4"),
        ({"a": 2, "b": 2, "c": -1}, "bad-rank", "rank -1 for c"),
        ({"a": 0, "b": 0, "c": 0}, "empty-plan", "removes every module"),
    ],
)
def test_ranks_that_do_not_fit(ranks, code, words):
    with pytest.raises(UsageError, match=words) as refusal:
        plan_compression(audited(), ToRanks(ranks))
    assert refusal.value.code == code


def test_a_module_that_keeps_its_rank_gets_no_other():
    rows = [
        row("conv", SIGMA, r=4, shape=(8, 16), kind="conv", groups=2),
        row("b", SIGMA, r=4, shape=(8, 16)),
    ]
    grouped = report(rows, with_gain=False)
    with pytest.raises(UsageError, match=r"rank 2 for conv: it keeps its rank 4 \(block-diagonal"):
        plan_compression(grouped, ToRanks({"conv": 2, "b": 2}))
    assert plan_compression(grouped, ToRanks({"conv": 4, "b": 2})).modules[1].new_rank == 2


def test_a_plan_of_another_adapter():
    plan = plan_compression(audited(), ToRank(2))
    other = audited(adapter={"sha256": "0" * 64})
    with pytest.raises(UsageError, match="for another adapter") as refusal:
        plan_compression(other, ToPlan(plan))
    assert refusal.value.code == "plan-mismatch"
