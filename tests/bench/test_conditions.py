"""Each obstacle to a grade A, apart from the counts."""

from typing import Any

import pytest
from bench_sample import MISTRAL, SEEDS, bench, config, three_seeds

from gradience.bench.verdict.aggregate import aggregate
from gradience.bench.verdict.evidence import obstacles_of

CONTROLS = {"compression": {"controls": ["per_layer_shuffled", "random_directions", "rewrite_control"]}}
BAD = {"random_directions": (40, 2)}


def runs(
    changes: dict[str, Any] = BAD, *, seeds: tuple[int, ...] = SEEDS, left_out: int = 0, **sections: Any
):
    asked = config(**CONTROLS | {"seeds": list(seeds)} | sections)
    return [bench(seed, changes, asked=asked) for seed in seeds if seed != left_out]


def test_a_run_that_meets_everything():
    together = runs()
    report = aggregate(together)
    assert report.status == "PASS"
    assert obstacles_of(together, report.seeds, report.variants) == ()


UNMET = {
    "a planned seed that was never run": (
        lambda: runs(left_out=123),
        [
            "no complete result for seed 123",
            "seeds of random_directions are missing",
            "seeds of rewrite_control are missing",
        ],
    ),
    "planned one by one": (
        lambda: [bench(seed, BAD, asked=config(**CONTROLS, seeds=[seed])) for seed in SEEDS],
        ["the seeds were planned separately, so unwanted seeds may have been left out"],
    ),
    "on dev": (lambda: runs(task=MISTRAL["task"] | {"eval_role": "dev"}), ["evaluated on dev"]),
    "a part of confirm": (
        lambda: runs(task=MISTRAL["task"] | {"eval_samples": 200}),
        ["limited to 200 examples (task.eval_samples)"],
    ),
    "a bad control that passes": (lambda: runs({}), ["random_directions is not as expected"]),
    "a rewrite that loses": (
        lambda: runs(BAD | {"rewrite_control": (20, 0)}),
        ["rewrite_control is not as expected"],
    ),
    "no bad control": (three_seeds, ["no control that must fail was planned"]),
    "an undertrained seed": (
        lambda: [*runs(left_out=456), bench(456, BAD, asked=config(**CONTROLS), correct=10)],
        [
            "random_directions is not as expected",
            "rewrite_control is not as expected",
        ],
    ),
}


@pytest.mark.parametrize(("runs_of", "unmet"), UNMET.values(), ids=UNMET)
def test_an_obstacle_is_named_with_its_reason(runs_of, unmet):
    together = runs_of()
    report = aggregate(together)
    assert list(obstacles_of(together, report.seeds, report.variants)) == unmet
