"""What a stage asks of a machine: GPUs where it computes with the base, memory by the forecast."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bench_process import write_inputs

from gradience.artifacts.forecast import CostEstimate
from gradience.artifacts.stage_spec import StageNeeds
from gradience.bench.config.load import load_config
from gradience.bench.plan.forecast import forecast
from gradience.bench.run.needs import PROCESS_BYTES, Needs


def needs(process_bytes: int = 0, processes: int = 1) -> Needs:
    cost = CostEstimate(
        base_params=0,
        probe_params=0,
        weights_bytes=1_000,
        trained_bytes=200,
        activation_bytes=30,
        evaluation_bytes=4,
        tokens_per_training=0,
        process_bytes=process_bytes,
    )
    return Needs(processes, 3, cost)


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("probe/train", StageNeeds(gpus=4, cpus=3, memory_bytes=1_230)),
        ("base/eval", StageNeeds(gpus=1, cpus=3, memory_bytes=1_004)),
        ("audit", StageNeeds(gpus=0, cpus=3, memory_bytes=PROCESS_BYTES)),
        ("calibration", StageNeeds(gpus=1, cpus=3, memory_bytes=1_230)),
        ("uniform_median.truncate/adapter", StageNeeds(gpus=0, cpus=3, memory_bytes=PROCESS_BYTES)),
        ("uniform_median.heal/adapter", StageNeeds(gpus=1, cpus=3, memory_bytes=1_230)),
        ("uniform_median/train", StageNeeds(gpus=4, cpus=3, memory_bytes=1_230)),
    ],
)
def test_each_kind_of_stage(stage: str, expected: StageNeeds) -> None:
    assert needs(processes=4).of_stage(stage, {"uniform_median.heal/adapter"}) == expected


def test_memory_of_a_processor_holds_python_too() -> None:
    assert needs(1).of_stage("probe/eval").memory_bytes == 1_004 + PROCESS_BYTES


def test_they_are_those_of_the_forecast(tmp_path: Path) -> None:
    config = load_config(write_inputs(tmp_path))
    cost = forecast(config).cost
    assert cost is not None
    training = Needs.of(config, on_gpus=False).of_stage("probe/train")
    working = cost.weights_bytes + cost.trained_bytes + cost.activation_bytes
    assert training.memory_bytes == working + PROCESS_BYTES
    assert training.cpus == torch.get_num_threads()


def test_a_cluster_with_gpus_is_asked_for_what_a_gpu_takes_though_a_login_node_has_none(
    tmp_path: Path,
) -> None:
    config = load_config(write_inputs(tmp_path), ["runtime.device=auto"])
    here, there = (Needs.of(config, on_gpus=gpus).of_stage("probe/train") for gpus in (False, True))
    asked = load_config(tmp_path / "config.yaml", ["runtime.device=cuda"])
    assert there == Needs.of(asked, on_gpus=False).of_stage("probe/train")
    assert there.memory_bytes is not None
    assert here.memory_bytes == there.memory_bytes + PROCESS_BYTES
    on_processors = load_config(tmp_path / "config.yaml", ["runtime.device=cpu"])
    assert Needs.of(on_processors, on_gpus=True).of_stage("probe/train").memory_bytes == here.memory_bytes


def test_what_cannot_be_computed_is_null(tmp_path: Path) -> None:
    config = load_config(write_inputs(tmp_path), [f"model.name={tmp_path}/gone"])
    stage = Needs.of(config, on_gpus=False).of_stage("probe/train")
    assert stage == StageNeeds(gpus=1, cpus=torch.get_num_threads())
