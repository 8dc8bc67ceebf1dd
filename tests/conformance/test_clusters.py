"""Runs over a Ray cluster: the result of one process, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from bench_process import finish, finished, start
from elsewhere import ENDS, PARTS, Killing, assert_same, kill
from killing import HANGS

pytestmark = pytest.mark.conformance


@contextmanager
def two_raylets():
    """Two raylets of this machine: to the first belongs the process that is started, the second does the work."""
    utils = pytest.importorskip("ray.cluster_utils")
    both = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    both.second = both.add_node(num_cpus=2)
    yield both
    both.shutdown()


@pytest.fixture(scope="module")
def both():
    with two_raylets() as cluster:
        yield cluster


@pytest.fixture
def cluster(both, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", both.address)
    return both


def test_a_ray_cluster_of_this_machine(two_seeds, two_alone, tmp_path):
    pytest.importorskip("ray")
    assert finish(two_seeds, tmp_path / "out", "runtime.executor=ray")[0] in ENDS
    assert_same(tmp_path / "out", two_alone)


def test_a_run_begun_by_itself_goes_on_in_ray(one_seed, one_alone, tmp_path, monkeypatch):
    """Ray would have its tasks compute with one thread."""
    pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads = "runtime.threads=null"
    process = start(one_seed, tmp_path / "out", threads)
    while "probe/eval" not in finished(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = finished(tmp_path / "out")
    assert finish(one_seed, tmp_path / "out", "runtime.executor=ray", threads)[0] in ENDS
    after = finished(tmp_path / "out")
    assert set(after) == set(finished(one_alone))
    assert {name: after[name] for name in before} == before


def kill_raylet(cluster):
    """Another takes its place."""
    os.kill(cluster.second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
    cluster.remove_node(cluster.second, allow_graceful=False)
    cluster.second = cluster.add_node(num_cpus=2)


KILLS = {
    "worker": lambda run, cluster, worker: kill(worker, signal.SIGKILL),
    "raylet": lambda run, cluster, worker: kill_raylet(cluster),
    "driver": lambda run, cluster, worker: run.kill_run(),
}


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("what", KILLS)
def test_a_part_of_ray_is_killed(one_seed, one_alone, cluster, tmp_path, what, part):
    run = Killing(one_seed, tmp_path / "out", part, "runtime.executor=ray")
    for worker, _ in run.moments():
        KILLS[what](run, cluster, worker)
    run.result(one_alone)


@pytest.mark.parametrize("ended", [["raylet"], ["raylet", "gcs_server"]], ids=" and ".join)
def test_the_head_of_ray_is_killed(one_seed, one_alone, tmp_path, monkeypatch, ended):
    """One message and its exit code; on another cluster the run goes on from what is finished."""
    output, ray = tmp_path / "out", "runtime.executor=ray"
    with two_raylets() as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        process = start(one_seed, output, ray)
        while len(finished(output)) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        for name in ended:
            kill(cluster.head_node.all_processes[name][0].process.pid, signal.SIGKILL)
        _, said = process.communicate(timeout=HANGS)
    assert process.returncode == 7, said
    assert "is lost: " in said
    assert "the same command: finished stages are kept" in said
    assert "Traceback" not in said
    before = finished(output)
    with two_raylets() as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        assert finish(one_seed, output, ray)[0] in ENDS
    assert_same(output, one_alone)
    after = finished(output)
    assert {name: after[name] for name in before} == before


GIGABYTE = """
import os, sys, json
from pathlib import Path
import numpy as np
import ray
from gradience.reports.training import MANIFEST, StageManifest
from gradience.bench.run import on_ray
from gradience.bench.run.on_ray import StageOrder
from gradience.bench.run.stages import files_of

folder = Path(sys.argv[1])
WEIGHTS = "adapter/adapter_model.safetensors"

def toy(order, environment, stages, *inputs):
    import tempfile
    here = Path(tempfile.mkdtemp(dir=folder.parent))
    sizes = {stage: 0 for stage in stages}
    for stage, files in zip(stages, inputs):
        sizes[stage] += sum(content.nbytes for _, content in files)
    (here / "adapter").mkdir()
    (here / "sizes.json").write_text(json.dumps(sizes))
    if order.stage == "probe/train":
        np.arange(2**27, dtype=np.int64).tofile(here / WEIGHTS)
    manifest = StageManifest(stage=order.stage, key="", files=files_of(here), seconds=0, peak_memory_bytes=None)
    manifest.save(here / MANIFEST)
    return on_ray.packed(here)

def peak():
    words = Path("/proc/self/status").read_text().split()
    return {name: int(words[words.index(name + ":") + 1]) / 2**20 for name in ("VmHWM", "RssAnon", "RssShmem")}

def made(on, stage, *inputs):
    on.run = ray.remote(num_returns=2)(toy)
    on.submit(StageOrder({}, "", 1, stage, "", inputs), folder, 0)
    _, error = on.ended()
    assert error is None, error
    assert json.loads((folder / stage / "sizes.json").read_text()).get("probe/train", 2**30) >= 2**30

on = on_ray.OnRay("cpu", 1)
before = peak()
made(on, "probe/train")
made(on, "probe/eval", "probe/train")
through = peak()
on.objects.clear()  # as in a run that is resumed
made(on, "probe/eval", "probe/train")
print(json.dumps([before, through, peak()]))
on.close()
"""
"""An adapter of 1 GiB is made by a task, and given to another from what it returned, and from the folder."""


def test_an_adapter_of_a_gigabyte_goes_through_in_one_copy(tmp_path):
    pytest.importorskip("ray")
    command = [sys.executable, "-c", GIGABYTE, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before, through, again = json.loads(done.stdout)
    sys.stderr.write(done.stdout)
    assert through["VmHWM"] - before["VmHWM"] < 1.5  # GiB
    assert again["VmHWM"] - before["VmHWM"] < 2  # Ray's store may not have freed all of the first copy yet
    assert (tmp_path / "run/probe/train/adapter/adapter_model.safetensors").stat().st_size == 2**30
