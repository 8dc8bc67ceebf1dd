"""Runs over a server that speaks S3, with the real client: the result of one process, and what goes wrong is said."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from bench_process import finish
from elsewhere import ENDS, assert_same

from gradience.artifacts.bench_plan import BenchPlan
from gradience.artifacts.stage import MANIFEST
from gradience.bench.config.load import load_config
from gradience.bench.plan.preregister import plan_digest
from gradience.bench.run import spread
from gradience.bench.run.bench import run_bench
from gradience.bench.run.places import place_of
from gradience.bench.status.look import look
from gradience.executors import executor
from gradience.progress import Watcher
from gradience.report.faces import to_markdown
from gradience.storage.lease import claim

pytestmark = pytest.mark.conformance


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
    name = re.sub("[^a-z]+", "-", request.node.name)[-60:].strip("-")  # what the server keeps outlives it
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


@pytest.fixture(params=["no bucket", "no credentials", "no connection", "no name"])
def wrong(request, bucket, monkeypatch, tmp_path):
    """An address, and the code and exit code of what is wrong with it."""
    import s3fs

    code, exit_code = "storage-address", 3
    if request.param == "no credentials":
        code, exit_code = "storage-access", 7
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    if request.param == "no connection":
        code, exit_code = "storage-connection", 7
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    addresses = {"no bucket": "s3://missing/mine", "no name": "s3://No_name!/mine"}
    return addresses.get(request.param, bucket), code, exit_code


def test_each_call_of_a_storage_says_what_is_wrong_with_it(wrong, tmp_path):
    from gradience.errors import GradienceError
    from gradience.storage.place import Place

    address, code, exit_code = wrong
    (tmp_path / "file").write_text("")
    place = Place.at(address)
    calls = [
        lambda: place.create("a", b""),
        lambda: place.write("a", b""),
        lambda: place.names("a"),
        lambda: place.put(tmp_path / "file", "a"),
    ]
    silent = [
        lambda: place.read("a"),
        lambda: place.written("a"),
        lambda: place.remove("a"),
    ]
    if "missing" in address:  # where a file is not, it is not either
        assert [call() for call in silent] == [None] * 3
    else:
        calls += [*silent, lambda: place.get("a", tmp_path / "other")]
    for call in calls:
        with pytest.raises(GradienceError) as error:
            call()
        assert (error.value.code, error.value.exit_code) == (code, exit_code)
        assert str(error.value).startswith(address)


def test_a_run_and_a_worker_say_what_is_wrong_with_their_storage(one_seed, wrong, tmp_path):
    address, _, exit_code = wrong
    code, _, said = finish(one_seed, tmp_path / "out", "runtime.workers=2", f"runtime.storage={address}")
    assert code == exit_code, said
    assert address in said
    assert "Traceback" not in said
    command = [sys.executable, "-m", "gradience.bench.stage", f"{address}/specs/1/audit.json"]
    worker = subprocess.run(command, capture_output=True, text=True, check=False)
    assert worker.returncode == 1
    assert worker.stderr.startswith(f"error: {address}")
    assert "Traceback" not in worker.stderr


def test_a_worker_that_alone_cannot_reach_the_storage_gives_the_reason(
    one_seed, bucket, tmp_path, monkeypatch
):
    """Credentials where the run was started, and none where its stages are made."""
    monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / "scratch"))
    nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    nothing |= {
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }
    monkeypatch.setattr(
        spread, "executor", lambda name, order: executor(name, replace(order, environment=nothing))
    )
    config = load_config(one_seed, ["runtime.workers=2", f"runtime.storage={bucket}"])
    ((bench,), _) = run_bench(config, tmp_path / "out", Watcher(), page_of=to_markdown)
    said = "its process ended with 1, 3 times; its log ends with: error: s3://"
    assert bench.status == "ERROR"
    reasons = [reason for variant in bench.variants for reason in variant.reasons]
    assert all(f"there is no probe: ProcessEnded: {said}" in reason for reason in reasons), reasons
    assert all("credentials" in reason for reason in reasons), reasons
    (failed,) = [stage for _, stage in look(tmp_path / "out").stages if stage.state == "failed"]
    assert (failed.name, failed.message[: len("ProcessEnded: " + said)]) == (
        "probe/train",
        f"ProcessEnded: {said}",
    )
    assert any("credentials" in line for line in failed.log)


def test_a_lease_in_an_object_storage(bucket):
    from gradience.storage.lease import claim
    from gradience.storage.place import Place

    place = Place.at(bucket)
    mine = claim(place, "leases/42/audit")
    assert claim(place, "leases/42/audit") is None
    mine.release()
    assert place.names("leases") == []


@pytest.fixture(params=["s3", "file"])
def address(request, tmp_path):
    """An address of a storage: a bucket, or a folder."""
    return request.getfixturevalue("bucket") if request.param == "s3" else f"file://{tmp_path}/shared"


def test_each_seed_is_a_job_of_its_own_and_then_all_are_one_result(
    two_seeds, two_alone, address, tmp_path, monkeypatch
):
    """docs/clusters/services.md: each job on a machine whose disk is gone afterwards."""
    storage = f"runtime.storage={address}"
    for seed in (1, 2):
        monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / f"scratch {seed}"))
        code, _, said = finish(two_seeds, tmp_path / f"job {seed}", f"only_seed={seed}", storage)
        assert code == 4, said  # the other seed is missing
        assert not (tmp_path / f"job {seed}" / f"seed_{3 - seed}").exists()
        shutil.rmtree(tmp_path / f"job {seed}")
    place = place_of(address, plan_digest(BenchPlan.read(two_alone / "plan.json")))
    before = {name: place.written(name) for name in place.names("") if name.endswith(MANIFEST)}
    assert finish(two_seeds, tmp_path / "out", storage)[0] in ENDS
    assert_same(tmp_path / "out", two_alone)
    assert before
    assert {name: place.written(name) for name in place.names("") if name.endswith(MANIFEST)} == before


@pytest.mark.parametrize("elsewhere", ["runtime.workers=2", "runtime.executor=ray"])
def test_machines_that_share_an_object_storage_alone(
    two_seeds, two_alone, bucket, tmp_path, monkeypatch, elsewhere
):
    if "ray" in elsewhere:
        pytest.importorskip("ray")
    monkeypatch.setenv("GRADIENCE_SCRATCH", str(tmp_path / "scratch"))
    code, _, said = finish(two_seeds, tmp_path / "out", elsewhere, f"runtime.storage={bucket}")
    assert code in ENDS, said
    assert_same(tmp_path / "out", two_alone)
    import s3fs

    stored = s3fs.S3FileSystem().find(bucket.removeprefix("s3://"))
    stages = Counter(name.split("/folders/")[1] for name in stored if name.endswith(MANIFEST))
    assert len(stages) == len(list((tmp_path / "out").rglob(MANIFEST)))
    assert json.loads((tmp_path / "out" / "digests.json").read_text())["files"]

    place = place_of(bucket, plan_digest(BenchPlan.read(tmp_path / "out" / "plan.json")))
    shutil.rmtree(tmp_path / "out" / "seed_1" / "audit")  # what only the storage has is done as well
    before = place.names("")
    status = look(tmp_path / "out")
    assert place.names("") == before
    assert (status.state, status.storage) == ("finished", bucket)
    assert {stage.state for _, stage in status.stages} == {"done"}
    place.remove(f"folders/1/audit/{MANIFEST}")
    lease = claim(place, "leases/1/audit")
    running = look(tmp_path / "out")
    workers = [stage.worker for _, stage in running.stages if stage.state == "running"]
    assert (running.state, [worker.pid for worker in workers]) == ("going on", [os.getpid()])
    lease.release()
