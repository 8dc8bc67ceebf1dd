"""`--require-grade`: a gate for scripts that want evidence, and not only the policy's PASS."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_sample import LARGE, SEEDS, bench, config, ladder, three_seeds

from gradience.bench.verdict.aggregate import aggregate
from gradience.cli.app import run
from gradience.cli.bench import ended
from gradience.reports.bench import Bench

CONTROLLED = config(
    compression={"variants": ["uniform_r4"], "arms": ["truncate"], "controls": ["random_directions"]}
)


def together(loss: tuple[int, int], *, verified: bool = True):
    changes = {"uniform_r4.truncate": loss, "random_directions": (900, 0)}
    runs = [bench(seed, changes, asked=CONTROLLED, **LARGE) for seed in SEEDS]
    return aggregate(runs, records_verified=verified)


CASES = {
    "A where A is required": (lambda: together((20, 15)), "A", 0),
    "A where B is required": (lambda: together((20, 15)), "B", 0),
    "B where B is required": (lambda: together((20, 15), verified=False), "B", 0),
    "B where A is required": (lambda: together((20, 15), verified=False), "A", 8),
    "C where B is required": (lambda: together((250, 202)), "B", 8),
    "X where B is required": (
        lambda: aggregate([unseeded(run) for run in ladder(*[(5, 5)] * 4)], records_verified=True), "B", 1,
    ),
    "a FAIL is a FAIL": (lambda: together((200, 20)), "B", 1),
    "a missing seed is an ERROR": (lambda: aggregate(three_seeds()[:2]), "B", 4),
    "a smoke run has no grade": (lambda: bench(42, asked=config(run_type="smoke")), "B", 8),
    "no grade is required": (lambda: together((20, 15), verified=False), None, 0),
}  # fmt: skip


def unseeded(run: Bench) -> Bench:
    """Every training of it saw the examples in another order than the probe; what is truncated is left out."""
    values = run.model_dump(by_alias=True)
    values["variants"] = [row for row in values["variants"] if row["arm"] == "retrain"]
    for row in values["variants"]:
        row["measures"]["training"]["first_batch_sha256"] = f"another order {run.seed}"
    return Bench.model_validate(values)


@pytest.mark.parametrize("case", CASES)
def test_the_code_says_whether_the_grade_is_reached(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    make, required, code = CASES[case]
    assert ended(make(), required) == code
    assert (f"required: grade {required}" in capsys.readouterr().err) == (code == 8 or case.startswith("X"))


def test_aggregate_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for one in three_seeds():
        folder = tmp_path / f"seed_{one.seed}"
        folder.mkdir()
        one.save(folder / "bench.json")
    assert run(["bench", "aggregate", str(tmp_path), "--require-grade", "B"]) == 0
    assert run(["bench", "aggregate", str(tmp_path), "--require-grade", "A", "--quiet"]) == 8
    assert "required: grade A; the best of what passes is B: per_layer" in capsys.readouterr().err
    assert run(["bench", "aggregate", str(tmp_path), "--require-grade", "C"]) == 2
