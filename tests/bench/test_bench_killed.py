"""A real run, killed with SIGKILL and resumed: the same results, and never a half-written artifact."""

import json
import shutil
from pathlib import Path

import pytest
from bench_process import without_times, write_inputs
from hostile.programs import record
from killing import KILLED, apart, drawn, in_child, moments_of, watched

import gradience.bench.run.bench  # noqa: F401  (loaded once, before anything is forked)
from gradience.cli.app import run
from gradience.reports.training import StageManifest


def check_artifacts(output: Path) -> None:
    """Whatever is there under its final name is whole."""
    for path in output.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in output.rglob("manifest.json"):
        manifest = StageManifest.read(path)
        for name, file in manifest.files.items():
            assert (path.parent / name).stat().st_size == file.bytes, path


def killed_in(root: Path, config: Path, seed: int, kills: int) -> None:
    """Run in `whole` unless that exists, and in `killed` with kills at random moments, each followed by a resume."""

    def bench(output: Path) -> None:
        assert run(["bench", "run", "--config", str(config), "--output", str(output)]) in (0, 1)

    files, counted = watched(), root / "moments"
    if not counted.exists():
        counted.write_text(str(moments_of(lambda: bench(root / "whole"), files)))
    moments = int(counted.read_text())
    for moment in drawn(moments, kills, seed):
        assert in_child(lambda: bench(root / "killed"), files, moment) == KILLED, moment
        if (root / "killed").exists():
            check_artifacts(root / "killed")
    assert in_child(lambda: bench(root / "killed")) == 0
    check_artifacts(root / "killed")
    assert not list(root.rglob("*.tmp"))


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def killed(config, tmp_path_factory):
    """A folder with the same run twice: left alone, and killed three times."""
    root = tmp_path_factory.mktemp("runs")
    apart(killed_in, root, config, seed=7, kills=3, models=True)
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
        apart(killed_in, killed, config, seed=seed, kills=10, models=True)
        assert_same(killed)
    record("R10", "Bench killed and resumed, equal in adapters, counts and losses", moments=30)
