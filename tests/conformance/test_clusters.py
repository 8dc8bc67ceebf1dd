"""Runs over processes, a Ray cluster and a server that speaks S3: the result of one process, whoever is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from bench_process import finish, start, without_times, write_inputs

from gradience.artifacts.stage import MANIFEST

pytestmark = pytest.mark.conformance

SECTIONS: dict[str, Any] = {
    "compression": {
        "variants": ["uniform_median"],
        "arms": ["retrain", "truncate"],
        "controls": ["aa"],
        "stop_early": False,
    },
    "seeds": [1, 2],
}
ARTIFACTS = ("bench_aggregate.json", "seed_1/bench.json", "seed_2/bench.json")
MOMENTS = 10
QUICK = ("runtime.heartbeat=0.5", "runtime.takeover=5")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("in"), **SECTIONS)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    output = tmp_path_factory.mktemp("alone")
    assert finish(config, output)[0] in (0, 1, 8)
    return output


def assert_same(output, alone):
    for name in ARTIFACTS:
        assert without_times(output / name) == without_times(alone / name), name


def finished(output):
    """Stage -> when it was finished: a stage that is made again has another time."""
    return {str(path.parent.relative_to(output)): path.stat().st_mtime_ns for path in output.rglob(MANIFEST)}


def processes_of(pattern):
    listing = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listing.stdout.split() if int(pid) != os.getpid()]


def killed_while_it_runs(process, pattern, seed):
    """Kill one process whose command has the pattern after a while; whether there was one."""
    time.sleep(random.Random(seed).uniform(1, 25))
    there = processes_of(pattern)
    if not there or process.poll() is not None:
        return False
    os.kill(random.Random(seed).choice(there), signal.SIGKILL)
    return True


def test_two_workers_of_this_machine(config, alone, tmp_path):
    assert finish(config, tmp_path / "out", "runtime.workers=2")[0] in (0, 1, 8)
    assert_same(tmp_path / "out", alone)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_worker_is_killed(config, alone, tmp_path, moment):
    process = start(config, tmp_path / "out", "runtime.workers=2", *QUICK)
    was = killed_while_it_runs(process, f"gradience.bench.stage {tmp_path}", moment)
    before = finished(tmp_path / "out")
    process.communicate(timeout=600)
    assert process.returncode in (0, 1, 8)
    assert_same(tmp_path / "out", alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before, was


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_the_driver_is_killed(config, alone, tmp_path, moment):
    process = start(config, tmp_path / "out", "runtime.workers=2", *QUICK)
    time.sleep(random.Random(100 + moment).uniform(2, 40))
    process.kill()
    process.communicate()
    before = finished(tmp_path / "out")
    assert finish(config, tmp_path / "out", "runtime.workers=2", *QUICK)[0] in (0, 1, 8)
    assert_same(tmp_path / "out", alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


# ------------------------------------------------------------ Ray


def test_a_ray_cluster_of_this_machine(config, alone, tmp_path):
    pytest.importorskip("ray")
    assert finish(config, tmp_path / "out", "runtime.executor=ray")[0] in (0, 1, 8)
    assert_same(tmp_path / "out", alone)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_a_worker_of_ray_is_killed(config, alone, tmp_path, moment):
    pytest.importorskip("ray")
    process = start(config, tmp_path / "out", "runtime.executor=ray", *QUICK)
    time.sleep(random.Random(moment).uniform(8, 40))
    there = processes_of("^ray::run_command")
    for pid in there[:1]:
        os.kill(pid, signal.SIGKILL)
    before = finished(tmp_path / "out")
    process.communicate(timeout=900)
    assert process.returncode in (0, 1, 8)
    assert_same(tmp_path / "out", alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


# ------------------------------------------------------------ S3


@pytest.fixture
def bucket(monkeypatch, request):
    """An address of a bucket on a server of this machine."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    name = request.node.name.replace("_", "-")  # what the server keeps outlives it
    s3fs.S3FileSystem().mkdir(name)
    yield f"s3://{name}/mine"
    s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


def test_an_object_storage_creates_a_file_once(bucket):
    from gradience.storage.place import Place

    place = Place.at(bucket)
    assert place.create("leases/1", b"me")
    assert not place.create("leases/1", b"you")
    assert place.read("leases/1") == b"me"
    place.write("leases/1", b"me again")
    assert place.read("leases/1") == b"me again"
    assert place.names("leases") == ["leases/1"]
    assert place.written("leases/1") is not None
    place.remove("leases/1")
    assert place.read("leases/1") is None


def test_a_lease_in_an_object_storage(bucket):
    from gradience.storage.lease import claim
    from gradience.storage.place import Place

    place = Place.at(bucket)
    mine = claim(place, "leases/42/audit")
    assert claim(place, "leases/42/audit") is None
    mine.release()
    assert place.names("leases") == []


def test_machines_that_share_an_object_storage_alone(config, alone, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / "scratch"))
    assert finish(config, tmp_path / "out", "runtime.workers=2", f"runtime.storage={bucket}")[0] in (0, 1, 8)
    assert_same(tmp_path / "out", alone)
    import s3fs

    stored = s3fs.S3FileSystem().find(bucket.removeprefix("s3://"))
    stages = Counter(name.split("/folders/")[1] for name in stored if name.endswith(MANIFEST))
    assert len(stages) == len(finished(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "digests.json").read_text())["files"]


def test_a_fleet_is_measured_on_ray(tmp_path):
    import shutil

    from gradience import audit_fleet
    from gradience.cli.demo import example_adapter

    for number in range(6):
        shutil.copytree(example_adapter(), tmp_path / "zoo" / f"{number}")
    words = [
        sys.executable,
        "-m",
        "gradience",
        "fleet",
        str(tmp_path / "zoo"),
        "--root",
        str(tmp_path),
        "--quiet",
    ]
    output = tmp_path / "there.jsonl"
    subprocess.run([*words, "-o", str(output), "--executor", "ray", "--parts", "2"], check=True)
    audit_fleet(tmp_path / "zoo", tmp_path / "here.jsonl", root=tmp_path)
    assert output.read_bytes() == (tmp_path / "here.jsonl").read_bytes()
