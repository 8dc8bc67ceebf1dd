"""What must hold before a verdict can be claimed, condition by condition, met and not met."""

from __future__ import annotations

from typing import Any

import pytest
from bench_sample import MISTRAL, bench, config, three_seeds

from gradience.bench.verdict.aggregate import aggregate
from gradience.reports.bench import MIN_SEEDS

CONTROLS = {"compression": {"controls": ["per_layer_shuffled", "random_directions", "rewrite_control"]}}
BAD = {"random_directions": (40, 2)}
SEEDS = (42, 123, 456)


def runs(
    changes: dict[str, Any] = BAD, *, seeds: tuple[int, ...] = SEEDS, left_out: int = 0, **sections: Any
):
    asked = config(**CONTROLS | {"seeds": list(seeds)} | sections)
    return [bench(seed, changes, asked=asked) for seed in seeds if seed != left_out]


def of(report):
    return {condition.name: condition for condition in report.conditions}


def test_a_run_that_meets_everything():
    report = aggregate(runs())
    assert report.status == "PASS"
    assert report.conditions_met
    assert list(of(report)) == ["protocol", "seeds", "confirm", "controls"]
    assert "**Conditions of a claim**: met" in report.to_markdown()


UNMET = {
    "a planned seed that was never run": (lambda: runs(left_out=123), {"protocol", "controls"}, "seed 123"),
    "a control without all of its seeds": (
        lambda: runs(left_out=123),
        {"protocol", "controls"},
        "seeds of random_directions are missing, seeds of rewrite_control are missing",
    ),
    "planned one by one": (
        lambda: [bench(seed, BAD, asked=config(**CONTROLS, seeds=[seed])) for seed in SEEDS],
        {"protocol"},
        "planned separately",
    ),
    "two seeds": (lambda: runs(seeds=(42, 123)), {"seeds"}, f"{MIN_SEEDS} or more"),
    "on dev": (lambda: runs(task=MISTRAL["task"] | {"eval_role": "dev"}), {"confirm"}, "dev"),
    "a part of confirm": (
        lambda: runs(task=MISTRAL["task"] | {"eval_samples": 200}),
        {"confirm"},
        "limited to 200 examples",
    ),
    "a bad control that passes": (
        lambda: runs({}),
        {"controls"},
        "random_directions is PASS but must be FAIL",
    ),
    "a rewrite that loses": (
        lambda: runs(BAD | {"rewrite_control": (20, 0)}),
        {"controls"},
        "rewrite_control is FAIL but must be PASS",
    ),
    "no bad control": (three_seeds, {"controls"}, "no control that must fail was planned"),
    "an undertrained seed": (
        lambda: [*runs(left_out=456), bench(456, BAD, asked=config(**CONTROLS), correct=10)],
        {"controls"},
        "random_directions is INCONCLUSIVE",
    ),
}


@pytest.mark.parametrize(("runs_of", "unmet", "why"), UNMET.values(), ids=UNMET)
def test_a_condition_that_is_not_met_is_named_with_its_reason(runs_of, unmet, why):
    report = aggregate(runs_of())
    assert not report.conditions_met
    assert {name for name, condition in of(report).items() if not condition.met} == unmet
    assert any(why in condition.why for condition in of(report).values() if not condition.met)
    assert "**Conditions of a claim**: not met" in report.to_markdown()
