"""Stages that other processes make: the same run, wherever they were made, and whatever ends one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_process import timeless
from spread_here import Here, Silent, runner_over, write_config
from tiny_bench import Watcher

from gradience.artifacts.stage import MANIFEST
from gradience.artifacts.stage_spec import StageFailure, StageSpec
from gradience.bench import stage as command
from gradience.bench.config.load import load_config
from gradience.bench.run import spread
from gradience.bench.run.bench import run_bench
from gradience.bench.run.last_words import last_words
from gradience.bench.run.one import do_stage, read_spec
from gradience.bench.run.places import SHARED, failure_name, log_name, place_of
from gradience.executors.executor import DONE, FAILED, RETRY
from gradience.report.faces import to_markdown
from gradience.storage.lease import claim, holder_of

ARTIFACTS = ("bench_aggregate.json", "seed_1/bench.json", "seed_2/bench.json")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory)


@pytest.fixture
def spread_over(config_file: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return runner_over(config_file, monkeypatch)


@pytest.fixture(scope="module")
def alone(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in one process."""
    output = tmp_path_factory.mktemp("alone")
    run_bench(load_config(config_file), output, Watcher(), page_of=to_markdown)
    return output


def results(folder: Path) -> dict[str, Any]:
    return {name: timeless(json.loads((folder / name).read_text())) for name in ARTIFACTS}


def test_the_result_is_that_of_one_process(alone, spread_over, tmp_path):
    here = Here()
    spread_over(here, tmp_path / "out")
    assert results(tmp_path / "out") == results(alone)
    assert set(here.done.values()) == {1}
    assert "1/uniform_median/train" in here.done


def test_what_was_killed_or_refused_is_tried_again_and_nothing_is_made_twice(alone, spread_over, tmp_path):
    here = Here(lambda name, times: {1: -9, 2: RETRY}.get(times))
    watcher = spread_over(here, tmp_path / "out")
    assert results(tmp_path / "out") == results(alone)
    assert set(here.done.values()) == {1}
    assert all("tried again" in note for note in watcher.notes)


def test_a_stage_whose_process_is_always_ended_is_an_error_of_its_variant(spread_over, tmp_path):
    shared = tmp_path / "out" / SHARED

    def plot(name, times):
        if name != "1/uniform_median/train":
            return None
        log = shared / log_name(1, "uniform_median/train")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("step 1\nout of \x1b[31mmemory\n")
        return -9

    here = Here(plot)
    spread_over(here, tmp_path / "out")
    said = StageFailure.read(shared / failure_name(1, "uniform_median/train"))
    assert (said.kind, said.log[0]) == ("ProcessEnded", "step 1")
    assert "memory" in said.log[1]
    assert "\x1b" not in said.log[1]
    assert said.message.startswith("its process ended with -9, 3 times; its log ends with: out of ")
    one, two = (results(tmp_path / "out")[f"seed_{seed}/bench.json"] for seed in (1, 2))
    status = {row["name"]: row["status"] for row in one["variants"]}
    assert status["uniform_median"] == "ERROR"
    assert "ERROR" not in {row["status"] for row in two["variants"]}
    assert here.times["1/uniform_median/train"] == spread.ATTEMPTS


def test_a_worker_that_cannot_say_why_it_failed_has_its_reason_in_its_log(spread_over, tmp_path):
    """Such as one that alone does not reach the storage; processes of their own are in conformance."""
    log = tmp_path / "out" / SHARED / log_name(1, "uniform_median/train")

    def plot(name, times):
        if name != "1/uniform_median/train":
            return None
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("loading\nerror: s3://mine: no credentials\nhint: give some\n")
        return FAILED

    watcher = spread_over(Here(plot), tmp_path / "out", "seeds=[1]")
    assert (
        "uniform_median/train: tried again: its process ended with 1;"
        " its log ends with: error: s3://mine: no credentials"
    ) in watcher.notes
    (row,) = [
        row
        for row in json.loads((tmp_path / "out" / "bench.json").read_text())["variants"]
        if row["name"] == "uniform_median"
    ]
    assert row["status"] == "ERROR"
    assert any("error: s3://mine: no credentials" in reason for reason in row["reasons"])
    log.unlink()
    assert f"look at {log} on the machine that ran it" in last_words(log)


def test_a_run_goes_on_from_what_is_there(spread_over, alone, tmp_path):
    class Broken(Exception):
        pass

    def breaks(name: str, times: int) -> None:
        if name.endswith("uniform_median/train"):
            raise Broken

    first, second = Here(breaks), Here()
    with pytest.raises(Broken):
        spread_over(first, tmp_path / "out")
    spread_over(second, tmp_path / "out")
    assert results(tmp_path / "out") == results(alone)
    assert set((first.done + second.done).values()) == {1}


def test_a_storage_is_all_that_machines_share(spread_over, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / "scratch"))
    here = Here()
    spread_over(here, tmp_path / "out", f"runtime.storage=file://{tmp_path}/storage")
    assert results(tmp_path / "out") == results(alone)
    assert set(here.done.values()) == {1}
    assert list((tmp_path / "storage").rglob("objects/*/*"))
    assert not list((tmp_path / "out").rglob("adapter_model.safetensors"))  # weights stay in the storage


def test_a_run_begun_in_a_folder_goes_on_over_a_storage(spread_over, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / "scratch"))

    class Broken(Exception):
        pass

    def breaks(name: str, times: int) -> None:
        if name.endswith("uniform_median/train"):
            raise Broken

    first, second = Here(breaks), Here()
    with pytest.raises(Broken):
        spread_over(first, tmp_path / "out")
    spread_over(second, tmp_path / "out", f"runtime.storage=file://{tmp_path}/storage")
    assert results(tmp_path / "out") == results(alone)
    assert set((first.done + second.done).values()) == {1}


@pytest.fixture
def spec(spread_over, tmp_path) -> StageSpec:
    """That of a training which was never begun."""

    class Caught(Exception):
        pass

    def catch(name: str, times: int) -> None:
        raise Caught

    here = Here(catch)
    with pytest.raises(Caught):
        spread_over(here, tmp_path / "out")
    return read_spec(here.seen[0].command[-1])


def test_a_stage_that_another_process_makes_is_left_to_it(spec):
    place = place_of(spec.storage, spec.plan_digest)
    lease = claim(place, f"leases/{spec.seed}/{spec.stage}")
    assert do_stage(spec) == RETRY
    lease.release()
    assert do_stage(spec) == DONE
    assert do_stage(spec) == DONE


def test_a_process_that_is_asked_to_end_gives_its_lease_back(spec, tmp_path):
    spec.save(tmp_path / "spec.json")
    program = [sys.executable, "-m", "gradience.bench.stage", str(tmp_path / "spec.json")]
    place, name = place_of(spec.storage, spec.plan_digest), f"leases/{spec.seed}/{spec.stage}"
    process = subprocess.Popen(program, env=os.environ, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while holder_of(place, name) is None and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.terminate()
    assert process.wait(60) == 143
    assert holder_of(place, name) is None


def test_other_data_on_a_machine_are_a_failure_with_a_reason(spec):
    assert do_stage(spec.model_copy(update={"key": "0" * 64})) == FAILED
    content = place_of(spec.storage, spec.plan_digest).read(f"failures/{spec.seed}/{spec.stage}.json")
    assert json.loads(content)["code"] == "stage-differs"


@pytest.fixture
def finished(spread_over, tmp_path) -> Any:
    """A run that is done; gives the spec of a stage of its first seed, whose manifest is removed."""
    here = Here()
    spread_over(here, tmp_path / "out")
    commands = {job.name: job.command[-1] for job in here.seen}

    def spec_of(stage: str) -> StageSpec:
        (tmp_path / "out" / "seed_1" / stage / MANIFEST).unlink()
        return read_spec(commands[f"1/{stage}"])

    return spec_of


def failure_of(spec: StageSpec) -> str:
    """The code of what ended a stage."""
    content = place_of(spec.storage, spec.plan_digest).read(f"failures/{spec.seed}/{spec.stage}.json")
    return json.loads(content)["code"]


def test_what_a_stage_builds_on_is_what_was_seen_when_it_was_handed_in(finished):
    spec = finished("audit")
    assert set(spec.inputs) == {"probe/train", "probe/eval"}
    other = {"key": "0" * 64}
    made_again = spec.inputs | {"probe/train": "0" * 64}
    assert do_stage(spec.model_copy(update=other | {"inputs": made_again})) == RETRY
    assert do_stage(spec.model_copy(update=other)) == FAILED
    assert failure_of(spec) == "stage-differs"
    assert do_stage(spec.model_copy(update={"inputs": made_again})) == DONE  # the same, by the key


def test_a_machine_with_another_base_says_so_and_does_not_wait(finished):
    """To it the training that is there, and that was seen, is one of something else."""
    spec = finished("probe/eval")
    elsewhere = spec.config | {"train": spec.config["train"] | {"lr": 1e-3}}
    assert do_stage(spec.model_copy(update={"config": elsewhere})) == FAILED
    assert failure_of(spec) == "stage-differs"


def test_an_input_that_is_not_there_yet_is_waited_for(finished, tmp_path):
    spec = finished("probe/eval")
    (tmp_path / "out" / "seed_1" / "probe" / "train" / MANIFEST).unlink()
    assert do_stage(spec) == RETRY


def test_what_needs_no_gpu_is_made_where_there_is_none(spread_over, tmp_path):
    here = Here()
    spread_over(here, tmp_path / "out")
    jobs = {job.name: job for job in here.seen}
    for name in ("audit", "uniform_median.truncate/adapter", "uniform_median/train"):
        job = jobs[f"1/{name}"]
        assert job.needs.gpus == (name == "uniform_median/train")
        spec = read_spec(job.command[-1])
        config = spec.config | {"runtime": spec.config["runtime"] | {"device": "cuda"}}
        (tmp_path / "out" / "seed_1" / name / MANIFEST).unlink()
        assert do_stage(spec.model_copy(update={"config": config})) == (FAILED if job.needs.gpus else DONE)


def test_a_worker_computes_as_the_run_by_itself_would(config_file):
    """On the first of the GPUs that it is given, and with the threads of the process that was started."""
    config = load_config(config_file, ["runtime.threads=null", "runtime.device=cuda:1"])
    runtime = spread._whole(config)["runtime"]
    assert (runtime["device"], runtime["threads"]) == ("cuda", torch.get_num_threads())


@pytest.mark.parametrize("arguments", [[], ["a", "b"]], ids=["none", "two"])
def test_the_command_takes_one_spec(arguments, capsys):
    assert command.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_a_spec_that_is_none(tmp_path, capsys):
    (tmp_path / "spec.json").write_text("{}")
    assert command.main([str(tmp_path / "spec.json")]) == FAILED
    assert "spec.json" in capsys.readouterr().err


def test_seeds_in_jobs_of_their_own_and_then_the_aggregate(alone, config_file, tmp_path, monkeypatch):
    jobs = {name: Here() for name in ("1", "2", "all")}
    for name, settings in {"1": ["only_seed=1"], "2": ["only_seed=2"], "all": []}.items():
        monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / f"scratch {name}"))  # another machine
        monkeypatch.setattr(spread, "executor", lambda *_, here=jobs[name]: here)
        storage = f"runtime.storage=file://{tmp_path}/storage"
        config = load_config(config_file, ["runtime.workers=2", storage, *settings])
        run_bench(config, tmp_path / name, Silent(), page_of=to_markdown)
    assert {name.partition("/")[0] for name in jobs["1"].done} == {"1"}
    assert jobs["all"].seen == []  # whoever comes last finds every stage
    assert results(tmp_path / "all") == results(alone)
