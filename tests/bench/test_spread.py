"""Stages that other processes make: the same run, wherever they were made, and whatever ends one of them."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench_process import timeless, write_inputs
from spread_here import SECTIONS, Here, runner_over
from tiny_bench import Watcher

from gradience.bench.config import load_config
from gradience.bench.run.bench import run_bench
from gradience.bench.run.on_ray import StageOrder, make_stage
from gradience.bench.verdict.facts import FAILED
from gradience.errors import InputError, NetworkError, UsageError

ARTIFACTS = ("bench_aggregate.json", "seed_1/bench.json", "seed_2/bench.json")


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("inputs"), **SECTIONS)


@pytest.fixture
def spread_over(config_file, monkeypatch):
    return runner_over(config_file, monkeypatch)


@pytest.fixture(scope="module")
def alone(config_file, tmp_path_factory):
    """The run in one process."""
    output = tmp_path_factory.mktemp("alone")
    run_bench(load_config(config_file), output, Watcher())
    return output


def results(folder: Path) -> dict[str, Any]:
    return {name: timeless(json.loads((folder / name).read_text())) for name in ARTIFACTS}


@pytest.fixture(scope="module")
def finished(config_file, tmp_path_factory):
    """The same run over workers, and those."""
    here, output = Here(), tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        runner_over(config_file, patch)(here, output)
    return output, here


def test_the_result_is_that_of_one_process(alone, finished):
    output, here = finished
    assert results(output) == results(alone)
    assert set(here.done.values()) == {1}
    assert "1/uniform_median/train" in here.done


def test_a_failed_stage_is_an_error_of_its_variant_with_its_traceback(spread_over, tmp_path):
    error = RuntimeError("the card fell off the bus")
    here = Here(lambda name: error if name == "1/uniform_median/train" else None)
    watcher = spread_over(here, tmp_path / "out")
    one, two = (results(tmp_path / "out")[f"seed_{seed}/bench.json"] for seed in (1, 2))
    (row,) = [row for row in one["variants"] if row["name"] == "uniform_median"]
    assert row["status"] == "ERROR"
    assert "RuntimeError: the card fell off the bus" in row["reasons"][0]
    assert "ERROR" not in {row["status"] for row in two["variants"]}
    assert watcher.notes == ["uniform_median/train: failed: the card fell off the bus"]
    failed = tmp_path / "out" / "seed_1" / "uniform_median" / "train" / FAILED
    assert failed.read_text() == "RuntimeError: the card fell off the bus"


def test_an_error_of_the_probe_ends_the_run_as_in_one_process(spread_over, tmp_path):
    lost = NetworkError("no answer", code="hub-connection", hint="try again")
    with pytest.raises(NetworkError, match="no answer") as error:
        spread_over(Here(lambda name: lost if name == "1/probe/train" else None), tmp_path / "out")
    assert (error.value.code, error.value.hint) == ("hub-connection", "try again")


def test_a_run_goes_on_from_what_is_there(spread_over, alone, tmp_path):
    class Broken(Exception):
        pass

    def breaks(name: str) -> None:
        if name.endswith("uniform_median/train"):
            raise Broken

    first, second = Here(breaks), Here()
    with pytest.raises(Broken):
        spread_over(first, tmp_path / "out")
    spread_over(second, tmp_path / "out")
    assert results(tmp_path / "out") == results(alone)
    assert set((first.done + second.done).values()) == {1}


@pytest.fixture
def order_of(finished, tmp_path):
    """Gives the order of a stage of the first seed, and a folder that has all but that."""
    folder = Path(shutil.copytree(finished[0] / "seed_1", tmp_path / "seed_1"))

    def order(stage: str) -> tuple[StageOrder, Path]:
        shutil.rmtree(folder / stage)
        return finished[1].orders[f"1/{stage}"][0], folder

    return order


def test_inputs_are_those_that_the_walk_has_passed(order_of):
    order, folder = order_of("audit")
    assert order.inputs == ("probe/train", "probe/eval")
    make_stage(order, folder)
    make_stage(order, folder)  # it is there


@pytest.mark.parametrize("changed", ["key", "config"])
def test_other_data_on_a_machine_are_a_failure_with_a_reason(order_of, changed):
    """A key differs if the stage itself would; the config stands for a base that makes the inputs differ."""
    order, folder = order_of("probe/eval")
    elsewhere = {**order.config, "train": {**order.config["train"], "lr": 1e-3}}
    values = {"key": "0" * 64} if changed == "key" else {"config": elsewhere}
    with pytest.raises(InputError, match="differ from those of the process that started") as caught:
        make_stage(replace(order, **values), folder)
    assert caught.value.code == "stage-differs"


def test_what_needs_no_gpu_is_made_where_there_is_none(finished, order_of):
    for name in ("audit", "uniform_median.truncate/adapter", "uniform_median/train"):
        gpus = finished[1].orders[f"1/{name}"][1]
        assert gpus == (name == "uniform_median/train")
        order, folder = order_of(name)
        runtime = {**order.config["runtime"], "device": "cuda"}
        with pytest.raises(UsageError, match="cuda") if gpus else nullcontext():
            make_stage(replace(order, config={**order.config, "runtime": runtime}), folder)
