"""How far a run is, seen from outside: while it runs, when it was killed, and where a stage failed."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from bench_process import KEPT, start, write_inputs
from killing import HANGS
from spread_here import SECTIONS, Here, Silent, runner_over

from gradience.bench.config import load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.run.on_ray import StageOrder
from gradience.bench.status import look
from gradience.reports.bench_status import BenchStatus, StageStatus


def stage_of(status: BenchStatus, seed: int, name: str) -> StageStatus:
    return {(number, stage.name): stage for number, stage in status.stages}[seed, name]


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def until(condition: Any) -> Any:
    """What the condition gives, once it gives something."""
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("it never came")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"), **SECTIONS)


def test_a_run_in_one_process_while_it_runs_and_after_a_kill(config_file, tmp_path):
    output = tmp_path / "out"
    process = start(config_file, output, "train.max_steps=1000000")

    def counted() -> BenchStatus | None:
        if not ((output / "plan.json").is_file() and (output / "config.yaml").is_file()):
            return None
        status = look(output)
        return status if stage_of(status, 1, "probe/train").state == "running" else None

    try:
        status = until(counted)
        assert status.state == "going on"
        assert stage_of(status, 2, "uniform_median/train").state == "waiting"
        assert "running, " in status.to_text()
        process.kill()
        process.communicate()
        gone = look(output)
        assert gone.state == "stopped"
        assert stage_of(gone, 1, "probe/train").state == "waiting"
        assert "resumes it" in gone.to_text()
    finally:
        process.kill()
        process.communicate()


def test_a_finished_run_in_which_a_variant_failed(config_file, tmp_path, monkeypatch, command):
    from gradience.bench.run import seed

    def breaks(task: Any, *, output: Path, **arguments: Any) -> Any:
        if output.parent.name == "uniform_median" and "seed_2" in str(output):
            raise RuntimeError("the card fell off the bus")
        return trains(task, output=output, **arguments)

    trains = seed.train_adapter
    monkeypatch.setattr(seed, "train_adapter", breaks)
    output = tmp_path / "out"
    run_bench(load_config(config_file), output, Silent())
    before = listing(output)
    status = look(output)
    assert listing(output) == before
    assert status.state == "finished"
    failed = stage_of(status, 2, "uniform_median/train")
    assert (failed.state, failed.message) == ("failed", "RuntimeError: the card fell off the bus")
    assert any("in breaks" in line for line in failed.log)
    assert (2, "uniform_median/eval") not in {(number, stage.name) for number, stage in status.stages}
    assert {stage.state for number, stage in status.stages if number == 1} == {"done"}
    shown = status.to_text()
    assert "the card fell off the bus" in shown
    assert "in breaks" in shown
    assert json.loads(command("bench", "status", output, "--json").out)["state"] == "finished"


def test_stages_of_other_processes_are_running_until_they_end(config_file, tmp_path, monkeypatch):
    """Looked at whenever a stage is submitted: those before it run; one fails."""
    output, seen = tmp_path / "out", list[BenchStatus]()

    class Looks(Here):
        def submit(self, order: StageOrder, folder: Path, gpus: int) -> None:
            super().submit(order, folder, gpus)
            seen.append(look(output))

    error = RuntimeError("the card fell off the bus")
    here = Looks(lambda name: error if name == "2/uniform_median/train" else None)
    runner_over(config_file, monkeypatch)(here, output)
    states = [stage_of(status, 1, "probe/train").state for status in seen]
    assert list(dict.fromkeys(states)) == ["waiting", "running", "done"]
    over = look(output)
    assert over.state == "finished"
    assert stage_of(over, 2, "uniform_median/train").message == "RuntimeError: the card fell off the bus"


def test_a_folder_that_holds_no_run(tmp_path, command):
    assert "no plan.json" in command("bench", "status", tmp_path, code=3).err


def test_a_published_run_packed_and_without_its_archive(tmp_path):
    packed = KEPT / "minilm_reviews_demo"
    status = look(packed)
    assert (status.run, status.state, len(status.stages)) == ("minilm_reviews_demo", "finished", 17)
    assert all(stage.state == "done" and stage.seconds is not None for _, stage in status.stages)
    shutil.copytree(packed, tmp_path / "run", ignore=shutil.ignore_patterns("*.xz"))
    assert look(tmp_path / "run").seeds[0].result == status.seeds[0].result == "PASS"
