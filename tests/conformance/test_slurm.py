"""A run over Slurm: its real daemons on this machine, two nodes of them, and whatever ends a job."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from bench_process import finish, start
from elsewhere import MOMENTS, PARTS, QUICK, Killing, assert_same, finished, kill
from killing import HANGS
from slurm_daemons import asked, begun, job_of, processes_of_node, until

from gradience.bench.status.look import look

pytestmark = pytest.mark.conformance

SLURM = ("runtime.executor=slurm", *QUICK)


@pytest.fixture(scope="module")
def cluster():
    with begun() as here:
        yield here


def jobs(form: str, *states: str) -> list[str]:
    chosen = [f"--states={','.join(states)}"] if states else ["--states=all"]
    return asked("squeue", "--me", "--array", "-h", "-o", form, *chosen).split()


def test_two_nodes_make_the_run_of_one_process(cluster, two_seeds, two_alone, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    before = set(jobs("%i"))
    process = start(two_seeds, tmp_path / "out", *SLURM)
    until(lambda: len(set(jobs("%N", "RUNNING"))) == 2, "jobs on both nodes")
    number = jobs("%A", "RUNNING")[0]
    arrays = jobs("%F")
    assert len(arrays) > len(set(arrays))  # the seeds' first stages are one array
    pid = until(lambda: [*processes_of_node("n1"), *processes_of_node("n2")], "a process of a job")[0]
    environment = (Path("/proc") / str(pid) / "environ").read_bytes()
    assert b"hf_secret" not in environment, number
    _, error = process.communicate(timeout=HANGS)
    assert process.returncode in (0, 1, 8), error
    assert "tried again" not in error, error
    assert_same(tmp_path / "out", two_alone)
    status = look(tmp_path / "out")
    assert (status.executor, status.state) == ("slurm", "finished")
    assert set(jobs("%i")) > before
    assert jobs("%i", "PENDING", "RUNNING") == []


def test_a_job_that_somebody_cancels_is_tried_again(cluster, one_seed, one_alone, tmp_path):
    process = start(one_seed, tmp_path / "out", *SLURM)
    number = until(lambda: jobs("%i", "RUNNING"), "a job")[0]
    asked("scancel", number)
    _, error = process.communicate(timeout=HANGS)
    assert f"tried again: job {number} of Slurm ended with CANCELLED" in error
    assert_same(tmp_path / "out", one_alone)


def test_a_process_that_is_killed_is_tried_again(cluster, one_seed, one_alone, tmp_path):
    process = start(one_seed, tmp_path / "out", *SLURM)
    until(lambda: jobs("%i", "RUNNING"), "a job")
    pid = until(lambda: [*processes_of_node("n1"), *processes_of_node("n2")], "a process of a job")[0]
    before = finished(tmp_path / "out")
    os.kill(pid, signal.SIGKILL)
    _, error = process.communicate(timeout=HANGS)
    assert "tried again: its process ended with -9" in error
    assert_same(tmp_path / "out", one_alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_a_lost_node_has_its_job_queued_again_by_slurm(cluster, one_seed, one_alone, tmp_path):
    process = start(one_seed, tmp_path / "out", *SLURM)
    until(lambda: "n1" in jobs("%N", "RUNNING"), "a job on n1")
    number = next(line.split("|")[0] for line in jobs("%i|%N", "RUNNING") if line.endswith("|n1"))
    before = finished(tmp_path / "out")
    cluster.lose("n1")
    until(lambda: "Restarts=0" not in asked("scontrol", "show", "job", number), "the job's second start")
    _, error = process.communicate(timeout=HANGS)
    cluster.node("n1")
    assert process.returncode in (0, 1, 8), error
    assert_same(tmp_path / "out", one_alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


WAYS = ("process", "process", "process", "job", "job", "job", "node", "node", "run", "run")
"""What is ended, at the moments of all parts together."""


@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_is_killed_the_result_is_that_of_one_process(cluster, one_seed, one_alone, tmp_path, part):
    ways = random.Random(7).sample(WAYS, MOMENTS)[part::PARTS]
    run = Killing(one_seed, tmp_path / "out", part, "runtime.executor=slurm")
    for way, (pid, _) in zip(ways, run.moments(), strict=False):
        sys.stderr.write(f"  {way}\n")
        job = job_of(pid)
        if way == "process":
            kill(pid, signal.SIGKILL)
        elif way == "job" and job:
            asked("scancel", job)
        elif way == "node":
            name = "n1" if pid in processes_of_node("n1") else "n2"
            cluster.lose(name)
            cluster.node(name)
        elif way == "run":
            run.kill_run()
    run.result(one_alone)
    asked("scancel", "--me")  # what a killed run had handed in, and the next one as well
    until(lambda: jobs("%i", "PENDING", "RUNNING", "COMPLETING") == [], "the end of the jobs")


def test_the_end_of_the_run_is_the_end_of_its_jobs(cluster, one_seed, one_alone, tmp_path):
    # Where the tests run in the background it is ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(one_seed, tmp_path / "out", *SLURM)
    until(lambda: jobs("%i", "RUNNING"), "a job")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANGS)
    assert process.returncode == 130
    until(lambda: jobs("%i", "PENDING", "RUNNING", "COMPLETING") == [], "the end of the jobs")
    before = finished(tmp_path / "out")
    assert finish(one_seed, tmp_path / "out", *SLURM)[0] in (0, 1, 8)
    assert_same(tmp_path / "out", one_alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_what_sbatch_refuses_is_said_in_its_words(cluster, one_seed, tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "nobody")
    code, _, error = finish(one_seed, tmp_path / "out", *SLURM)
    assert code == 2
    assert "sbatch refuses" in error
    assert "invalid partition" in error
