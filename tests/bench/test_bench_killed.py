"""A real run, killed with SIGKILL and taken up again: the same results, and never a half-written artifact."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from bench_process import finish, start, without_times, write_inputs

from gradience.artifacts.stage import StageManifest


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run, and how long its process worked after the plan was written."""
    output = tmp_path_factory.mktemp("whole")
    process = start(config, output)
    begun = wait_for(output / "plan.json", process)
    _, errors = process.communicate(timeout=600)
    assert process.returncode in (0, 1), errors
    return output, time.monotonic() - begun


def wait_for(path: Path, process: subprocess.Popen[str]) -> float:
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return time.monotonic()


def check_artifacts(output: Path) -> None:
    """Whatever is there under its final name is whole."""
    for path in output.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in output.rglob("manifest.json"):
        manifest = StageManifest.read(path)
        for name, file in manifest.files.items():
            assert (path.parent / name).stat().st_size == file.bytes


def killed_and_resumed(config: Path, output: Path, seconds: float, kills: int, dice: random.Random) -> int:
    """Kill `kills` times, each later in the run than the last could have been; returns how many hit a live run."""
    hits = 0
    for _ in range(kills):
        process = start(config, output)
        wait_for(output / "plan.json", process)
        time.sleep(dice.uniform(0, seconds / max(2, kills / 3)))
        hits += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check_artifacts(output)
    code, _, errors = finish(config, output)
    assert code in (0, 1), errors
    check_artifacts(output)
    return hits


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_result(
    config: Path, whole: tuple[Path, float], tmp_path: Path
) -> None:
    expected, seconds = whole
    dice = random.Random(os.environ.get("CI") and 7)
    assert killed_and_resumed(config, tmp_path / "out", seconds, 3, dice) > 0
    assert without_times(tmp_path / "out" / "bench.json") == without_times(expected / "bench.json")


@pytest.mark.conformance
@pytest.mark.parametrize("round_", range(6))
def test_killed_at_thirty_points(
    config: Path, whole: tuple[Path, float], tmp_path: Path, round_: int
) -> None:
    expected, seconds = whole
    assert killed_and_resumed(config, tmp_path / "out", seconds, 5, random.Random(round_)) > 2
    assert without_times(tmp_path / "out" / "bench.json") == without_times(expected / "bench.json")


def test_finished_it_is_not_run_again_but_told_again(config: Path, whole: tuple[Path, float]) -> None:
    output, _ = whole
    before = without_times(output / "bench.json")
    stages = {path: path.stat().st_mtime_ns for path in output.rglob("manifest.json")}
    code, text, errors = finish(config, output)
    assert code in (0, 1), errors
    assert "uniform_median.truncate" in text
    assert without_times(output / "bench.json") == before
    assert {path: path.stat().st_mtime_ns for path in output.rglob("manifest.json")} == stages


def test_the_same_output_for_another_config_is_refused(config: Path, whole: tuple[Path, float]) -> None:
    output, _ = whole
    code, _, errors = finish(config, output, "train.lr=1e-4")
    assert code == 2
    assert "holds a run of another config" in errors


def test_a_second_run_at_the_same_time_is_refused(config: Path, tmp_path: Path) -> None:
    first = start(config, tmp_path)
    try:
        wait_for(tmp_path / "plan.json", first)
        first.send_signal(signal.SIGSTOP)  # in the middle, for as long as the other one takes
        code, _, errors = finish(config, tmp_path)
    finally:
        first.kill()
        first.communicate()
    assert code == 6
    assert "another run is writing here" in errors
