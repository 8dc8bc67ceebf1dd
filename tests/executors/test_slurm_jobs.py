"""What Slurm is asked for, the script of a job array, and what its states mean; runs over real daemons are in
tests/conformance/test_slurm.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gradience.artifacts.stage_spec import StageNeeds
from gradience.errors import UsageError
from gradience.executors import executor
from gradience.executors.executor import Job, Order
from gradience.executors.slurm import SlurmExecutor
from gradience.executors.slurm_jobs import options_of, script_of
from gradience.executors.slurm_queue import ended_as


def job(name: str, folder: Path, command: list[str], **needs: float) -> Job:
    return Job(name, command, StageNeeds.model_validate(needs), folder / "a b" / f"{name}.log")


def run_script(script: str, index: int) -> int:
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(index)}
    return subprocess.run(["sh"], input=script, text=True, env=environment, check=False).returncode


def test_each_place_of_an_array_runs_its_command_and_ends_with_its_code(tmp_path):
    texts = ["it's 1 $HOME", "2; exit 9"]
    jobs = [job(f"{i}", tmp_path, ["sh", "-c", f'echo "$0"; exit {i}', text]) for i, text in enumerate(texts)]
    for index, text in enumerate(texts):
        assert run_script(script_of(jobs), index) == index
        assert jobs[index].log.read_text() == f"{text}\n"


def test_without_the_folder_of_the_log_the_command_runs_all_the_same(tmp_path):
    (tmp_path / "a b").write_text("a file where the folder would be")
    assert run_script(script_of([job("1", tmp_path, ["sh", "-c", "exit 75"])]), 0) == 75


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("COMPLETED", "0:0", 0),
        ("FAILED", "1:0", 1),
        ("FAILED", "75:0", 75),
        ("FAILED", "0:9", -9),
        ("CANCELLED", "0:15", -9),
        ("TIMEOUT", "0:0", -9),
        ("", "", 75),
    ],
)
def test_how_a_job_ended(state, code, expected):
    assert ended_as("42/audit", "17_0", state, code).code == expected


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A machine on which Slurm's programs are there, and no variable of sbatch is set."""
    for name in ("sbatch", "squeue", "scancel", "sinfo"):
        (tmp_path / name).write_text("#!/bin/sh\necho gpu:h100:8\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith("SBATCH_")]:
        monkeypatch.delenv(name)


def asked_for(tmp_path: Path, device: str = "auto", **needs: float) -> list[str]:
    has_gpus = SlurmExecutor(Order(device=device)).has_gpus
    return options_of(job("1/probe/train", tmp_path, ["true"], **needs), has_gpus=has_gpus)


def test_what_a_job_asks_for(programs, tmp_path, monkeypatch):
    assert asked_for(tmp_path, gpus=2, minutes=10) == ["--time=30", "--nodes=1", "--gpus-per-node=2"]
    assert asked_for(tmp_path, gpus=1, minutes=1, memory_bytes=2**30) == [
        "--time=15",
        "--nodes=1",
        "--gpus-per-node=1",
    ]
    assert asked_for(tmp_path, "cpu", gpus=1, cpus=4, memory_bytes=2**30) == [
        "--mem=1536M",
        "--cpus-per-task=4",
    ]
    monkeypatch.setenv("SBATCH_GRES", "gpu:a100:1")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "5")
    assert asked_for(tmp_path, gpus=1, minutes=1) == []


def test_after_a_time_out_twice_as_long_and_after_too_little_memory_twice_as_much(programs, tmp_path):
    one = job("1/probe/train", tmp_path, ["true"], memory_bytes=2**30, minutes=10)
    assert options_of(one, has_gpus=True, timeouts=2, too_large=1) == ["--time=120", "--mem=3072M"]


def test_a_machine_without_slurm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no sbatch on this machine"):
        executor("slurm", Order())
