"""Runs over processes and a Ray cluster: the result of one process, whoever is killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
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
STAGES, PARTS = 7, 2
"""Of the small run; and runs of it over which the moments are spread, since a run is what takes long."""
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


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One seed, a variant that is retrained and one that is cut: seven stages."""
    compression = SECTIONS["compression"] | {"controls": []}
    return write_inputs(tmp_path_factory.mktemp("small"), compression=compression, seeds=[1])


@pytest.fixture(scope="module")
def small_alone(small, tmp_path_factory):
    output = tmp_path_factory.mktemp("small alone")
    assert finish(small, output)[0] in (0, 1, 8)
    return output


@pytest.fixture(scope="module")
def both():
    """Two raylets of this machine: to the first belongs the process that is started, the second does the work."""
    utils = pytest.importorskip("ray.cluster_utils")
    both = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    both.second = both.add_node(num_cpus=2)
    yield both
    both.shutdown()


@pytest.fixture
def cluster(both, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", both.address)
    return both


class Seen:
    """Looks at the stages of a run while it goes on: when each was finished, and which were begun."""

    def __init__(self, output):
        self.output, self.times, self.over = output, {}, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        while not self.over.wait(0.1):
            self._note()

    def _note(self):
        for name, moment in finished(self.output).items():
            self.times.setdefault(name, set()).add(moment)

    @property
    def begun(self):
        return len(list(self.output.glob(".shared/specs/**/*.json")))

    def once(self):
        """The stages, each of which was finished at one moment."""
        self.over.set()
        self.thread.join()
        self._note()
        assert {name: len(moments) for name, moments in self.times.items() if len(moments) > 1} == {}
        return set(self.times)


class Killing:
    """A run on the cluster, of which something is killed several times while it goes on."""

    def __init__(self, config, output, part):
        self.config, self.output = config, output
        self.chance = random.Random(part)
        self.stages = sorted(self.chance.sample(range(1, STAGES), MOMENTS // PARTS))
        self.seen = Seen(output)
        self.begin()

    def begin(self):
        self.process = start(self.config, self.output, "runtime.executor=ray", *QUICK)

    def moments(self):
        """Workers of Ray, each with its stage, a while after so many stages are begun; until the run is over."""
        for stage in self.stages:
            while self.seen.begun < stage and self.process.poll() is None:
                time.sleep(0.05)
            time.sleep(self.chance.uniform(0, 5))
            while not (there := self.workers()) and self.process.poll() is None:
                time.sleep(0.05)
            if self.process.poll() is not None:
                return
            names = ", ".join(there.values())
            sys.stderr.write(f"killed at {names}; finished: {len(finished(self.output))} of {STAGES}\n")
            yield list(there)

    def workers(self):
        """Processes of Ray that have a command of this run, and its stage."""
        there = {}
        for pid in processes_of(f"gradience.bench.stage {self.output}"):
            with suppress(OSError):  # it has just ended
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    stage = Path(f"/proc/{pid}/cmdline").read_text().partition("/specs/")[2]
                    there[int(stat[1])] = stage.rstrip("\0").removesuffix(".json")
        return there

    def result(self, alone):
        """Its results, and stages, are those of one process, and no stage was finished twice."""
        said = self.process.communicate(timeout=900)
        assert self.process.returncode in (0, 1, 8), said
        assert without_times(self.output / "bench.json") == without_times(alone / "bench.json")
        assert self.seen.once() == set(finished(alone))


def test_a_ray_cluster_of_this_machine(config, alone, tmp_path):
    pytest.importorskip("ray")
    assert finish(config, tmp_path / "out", "runtime.executor=ray")[0] in (0, 1, 8)
    assert_same(tmp_path / "out", alone)


def test_a_run_begun_by_itself_goes_on_in_ray(small, small_alone, tmp_path, monkeypatch):
    """Ray would have its tasks compute with one thread."""
    pytest.importorskip("ray")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads = "runtime.threads=null"
    process = start(small, tmp_path / "out", threads)
    while "probe/eval" not in finished(tmp_path / "out"):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    before = finished(tmp_path / "out")
    assert finish(small, tmp_path / "out", "runtime.executor=ray", threads)[0] in (0, 1, 8)
    after = finished(tmp_path / "out")
    assert set(after) == set(finished(small_alone))
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("part", range(PARTS))
def test_workers_of_ray_are_killed(small, small_alone, cluster, tmp_path, part):
    run = Killing(small, tmp_path / "out", part)
    for there in run.moments():
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(there[0], signal.SIGKILL)
    run.result(small_alone)


@pytest.mark.parametrize("part", range(PARTS))
def test_raylets_are_killed(small, small_alone, cluster, tmp_path, part):
    """Each time another takes its place."""
    run = Killing(small, tmp_path / "out", part)
    for _ in run.moments():
        os.kill(cluster.second.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        cluster.remove_node(cluster.second, allow_graceful=False)
        cluster.second = cluster.add_node(num_cpus=2)
    run.result(small_alone)


@pytest.mark.parametrize("part", range(PARTS))
def test_the_driver_of_ray_is_killed(small, small_alone, cluster, tmp_path, part):
    run = Killing(small, tmp_path / "out", part)
    for _ in run.moments():
        run.process.kill()
        run.process.communicate()
        run.begin()
    run.result(small_alone)


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
