"""One planned seed at a time: the plan names them all, so a seed that is not there is missing, and has failed."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
from bench_process import edit, without_times, write_inputs

from gradience.cli.app import run
from gradience.reports.bench import BenchAggregate

SMALL = {
    "compression": {"variants": ["uniform_r4"], "arms": ["truncate"], "controls": []},
    "seeds": [42, 123],
}
Bench = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"), **SMALL)


@pytest.fixture
def bench(config, capsys):
    def bench(output: Path, *more: str) -> tuple[int, str]:
        words = ["-c", str(config), "-o", str(output), "--quiet", "train.max_steps=3", *more]
        code = run(["bench", "run", *words, "task.probe_gate.above_base=null"])
        return code, capsys.readouterr().err

    return bench


def test_seed_by_seed_is_the_same_run(bench, tmp_path):
    apart, whole = tmp_path / "apart", tmp_path / "whole"
    assert bench(apart, "--only-seed", "123")[0] == 4
    first = BenchAggregate.read(apart / "bench_aggregate.json")
    assert (first.planned_seeds, first.status) == ((42, 123), "ERROR")
    assert [row.source for row in first.seeds] == [None, "seed_123/bench.json"]
    assert first.reasons == ("seed 42: no result",)
    assert first.variants[0].pass_rate in (0, Fraction(1, 2))
    assert first.variants[0].status == "FAIL"
    assert bench(apart, "only_seed=42")[0] in (0, 1, 8)
    assert bench(whole)[0] in (0, 1, 8)
    for name in ("bench_aggregate.json", "seed_42/bench.json", "seed_123/bench.json"):
        assert without_times(apart / name) == without_times(whole / name)
    assert (apart / "plan.json").read_bytes() == (whole / "plan.json").read_bytes()
    assert BenchAggregate.read(apart / "bench_aggregate.json").records_verified


def test_a_seed_of_another_process_is_counted_again_before_anything_is_certified(bench, tmp_path):
    bench(tmp_path, "--only-seed", "42")
    path = tmp_path / "seed_42" / "bench.json"
    edit(path, lambda values: values["probe"].update(records_sha256="0" * 64))
    bench(tmp_path, "--only-seed", "123")
    assert BenchAggregate.read(tmp_path / "bench_aggregate.json").records_verified is False
    (tmp_path / "digests.json").unlink()
    for stage in filter(Path.is_dir, path.parent.iterdir()):
        shutil.rmtree(stage)  # keep only the result
    assert bench(tmp_path, "--only-seed", "123")[0] in (0, 1, 8)
    assert BenchAggregate.read(tmp_path / "bench_aggregate.json").records_verified is False


def test_a_seed_outside_the_plan_is_refused(bench, tmp_path):
    code, said = bench(tmp_path, "--only-seed", "7")
    assert code == 2
    assert "only_seed=7: `only_seed`: 7 is not among the planned seeds 42, 123" in said
    assert not list(tmp_path.iterdir())
