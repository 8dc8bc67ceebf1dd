"""A real run, killed with SIGKILL and resumed: the same results, and never a half-written artifact."""

import shutil
from pathlib import Path

import pytest
from bench_process import without_times, write_inputs
from hostile.programs import record
from killing import program

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def killed(config, tmp_path_factory):
    """A folder with the same run twice: left alone, and killed three times."""
    root = tmp_path_factory.mktemp("runs")
    program(HERE / "kill_bench.py", config, root, 7, 3)
    return root


def assert_same(root: Path) -> None:
    assert without_times(root / "killed" / "bench.json") == without_times(root / "whole" / "bench.json")


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_result(killed):
    assert_same(killed)


@pytest.mark.hostile
def test_killed_at_thirty_moments(config, killed):
    """bench.json names every adapter and every file of records by its digest, every count and every loss."""
    for seed in range(3):
        shutil.rmtree(killed / "killed")
        program(HERE / "kill_bench.py", config, killed, seed, 10)
        assert_same(killed)
    record("R10", "Bench killed and resumed, equal in adapters, counts and losses", moments=30)
