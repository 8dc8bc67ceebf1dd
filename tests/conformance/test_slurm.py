"""A run over Slurm: its real daemons on this machine, two nodes of them, and whatever ends a job."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from bench_process import finish, start, without_times, write_inputs
from killing import HANGS

from gradience.artifacts.stage import MANIFEST
from gradience.bench.status.look import look

pytestmark = pytest.mark.conformance

START = 300.0
"""Seconds after which a daemon is taken for one that does not start."""
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
WHERE = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
SECTIONS: dict[str, Any] = {
    "compression": {"variants": ["uniform_median"], "controls": [], "stop_early": False},
    "seeds": [1, 2],
}
ARTIFACTS = ("bench_aggregate.json", "seed_1/bench.json", "seed_2/bench.json")
QUICK = ("runtime.executor=slurm", "runtime.heartbeat=0.5", "runtime.takeover=5")
CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SlurmdTimeout=10
SlurmctldTimeout=10
ReturnToService=2
KillWait=2
JobRequeue=1
SchedulerParameters=sched_interval=2,batch_sched_delay=0
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=16000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=16000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
"""Without cgroups, which need systemd, and without accounting: squeue alone must suffice."""


def until(condition: Callable[[], Any], what: str, seconds: float = HANGS) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.3)
    raise AssertionError(f"{what}: it never came")


def asked(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@dataclass
class Cluster:
    """The daemons, each a child of this process."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def begin(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            program = shutil.which(command[0], path=WHERE) or command[0]
            self.running[name] = subprocess.Popen([program, *command[1:]], stdout=out, stderr=out)

    def node(self, name: str) -> None:
        """Begin a node, and wait until jobs can run there."""
        self.begin(name, "slurmd", "-D", "-N", name)
        until(
            lambda: asked("sinfo", "-h", "-n", name, "-o", "%T").strip() in ("idle", "mixed", "allocated"),
            name,
        )

    def lose(self, name: str) -> None:
        """The node is gone: its daemon, and all that ran on it."""
        daemon = self.running.pop(name)
        daemon.kill()
        daemon.wait()
        for pid in processes_of_node(name):
            with_parent = {pid, parent_of(pid)}
            for each in with_parent:
                if each > 1 and each != os.getpid():
                    _kill(each)

    def end(self) -> None:
        if subprocess.run(["scancel", "--me"], capture_output=True, check=False).returncode == 0:
            until(
                lambda: not asked("squeue", "--me", "-h", "--states=running,completing"),
                "the end of jobs",
                START,
            )
        for process in reversed(self.running.values()):
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def processes_of_node(name: str) -> list[int]:
    """Those whose environment says that they run there."""
    mark, pids = f"SLURMD_NODENAME={name}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                pids.append(int(folder.name))
        except OSError:
            continue
    return pids


def parent_of(pid: int) -> int:
    """That process, where it is the one by which a node runs a job; else 0."""
    try:
        parent = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
        named = (Path("/proc") / str(parent) / "comm").read_text().strip()
    except OSError:
        return 0
    return parent if named == "slurmstepd" else 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = [name for name in DAEMONS if shutil.which(name, path=WHERE) is None]
    if missing:
        pytest.skip(
            f"Slurm is not installed: no {', '.join(missing)} (Debian: slurmctld slurmd slurm-client munge)"
        )
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: names of sockets end at 108 bytes
    for name in ("munge", "state"):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    places = {"host": socket.gethostname().partition(".")[0], "user": getpass.getuser(), "folder": folder}
    ports = {name: free_port() for name in ("controller", "n1", "n2")}
    (folder / "slurm.conf").write_text(CONF.format(**places, **ports))
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    patch.setenv("SBATCH_TIMELIMIT", "30")
    here = Cluster(folder)
    try:
        files = {name: folder / "munge" / name for name in ("socket", "pid", "log", "seed")}
        here.begin(
            "munged",
            *("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={files['socket']}"),
            *(f"--pid-file={files['pid']}", f"--log-file={files['log']}", f"--seed-file={files['seed']}"),
        )
        until(files["socket"].exists, "munged", START)
        here.begin("slurmctld", "slurmctld", "-D", "-i")
        until(
            lambda: subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0, "slurmctld"
        )
        here.node("n1")
        here.node("n2")
        yield here
    finally:
        here.end()
        patch.undo()
        shutil.rmtree(folder, ignore_errors=True)


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


def jobs(form: str, *states: str) -> list[str]:
    chosen = [f"--states={','.join(states)}"] if states else ["--states=all"]
    return asked("squeue", "--me", "--array", "-h", "-o", form, *chosen).split()


def test_two_nodes_make_the_run_of_one_process(cluster, config, alone, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    before = set(jobs("%i"))
    process = start(config, tmp_path / "out", *QUICK)
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
    assert_same(tmp_path / "out", alone)
    status = look(tmp_path / "out")
    assert (status.executor, status.state) == ("slurm", "finished")
    assert set(jobs("%i")) > before
    assert jobs("%i", "PENDING", "RUNNING") == []


def test_a_job_that_somebody_cancels_is_tried_again(cluster, config, alone, tmp_path):
    process = start(config, tmp_path / "out", *QUICK)
    number = until(lambda: jobs("%i", "RUNNING"), "a job")[0]
    asked("scancel", number)
    _, error = process.communicate(timeout=HANGS)
    assert f"tried again: job {number} of Slurm ended with CANCELLED" in error
    assert_same(tmp_path / "out", alone)


def test_a_process_that_is_killed_is_tried_again(cluster, config, alone, tmp_path):
    process = start(config, tmp_path / "out", *QUICK)
    until(lambda: jobs("%i", "RUNNING"), "a job")
    pid = until(lambda: [*processes_of_node("n1"), *processes_of_node("n2")], "a process of a job")[0]
    before = finished(tmp_path / "out")
    os.kill(pid, signal.SIGKILL)
    _, error = process.communicate(timeout=HANGS)
    assert "tried again: its process ended with -9" in error
    assert_same(tmp_path / "out", alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_a_lost_node_has_its_job_queued_again_by_slurm(cluster, config, alone, tmp_path):
    process = start(config, tmp_path / "out", *QUICK)
    until(lambda: "n1" in jobs("%N", "RUNNING"), "a job on n1")
    number = next(line.split("|")[0] for line in jobs("%i|%N", "RUNNING") if line.endswith("|n1"))
    before = finished(tmp_path / "out")
    cluster.lose("n1")
    until(lambda: "Restarts=0" not in asked("scontrol", "show", "job", number), "the job's second start")
    _, error = process.communicate(timeout=HANGS)
    cluster.node("n1")
    assert process.returncode in (0, 1, 8), error
    assert_same(tmp_path / "out", alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_the_end_of_the_run_is_the_end_of_its_jobs(cluster, config, alone, tmp_path):
    # Where the tests run in the background it is ignored, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(config, tmp_path / "out", *QUICK)
    until(lambda: jobs("%i", "RUNNING"), "a job")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANGS)
    assert process.returncode == 130
    until(lambda: jobs("%i", "PENDING", "RUNNING", "COMPLETING") == [], "the end of the jobs")
    before = finished(tmp_path / "out")
    assert finish(config, tmp_path / "out", *QUICK)[0] in (0, 1, 8)
    assert_same(tmp_path / "out", alone)
    after = finished(tmp_path / "out")
    assert {name: after[name] for name in before} == before


def test_what_sbatch_refuses_is_said_in_its_words(cluster, config, tmp_path, monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "nobody")
    code, _, error = finish(config, tmp_path / "out", *QUICK)
    assert code == 2
    assert "sbatch refuses" in error
    assert "invalid partition" in error
