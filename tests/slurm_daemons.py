"""Slurm's real daemons on this machine: a controller and two nodes, each with one core.

Without cgroups, which need systemd, and without accounting: squeue alone must suffice.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from elsewhere import kill, parent_of
from killing import HANGS

START = 300.0
"""Seconds after which a daemon is taken for one that does not start."""
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
WHERE = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
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
            for each in {pid, step_of(pid)} - {0, os.getpid()}:
                kill(each, signal.SIGKILL)

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


def step_of(pid: int) -> int:
    """The process by which a node runs the job of this one; 0 where it is none."""
    parent = parent_of(pid)
    with suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text().strip() == "slurmstepd":
            return parent
    return 0


def job_of(pid: int) -> str:
    """The job of Slurm that a process belongs to, such as `17_0`; empty where it has just ended."""
    with suppress(OSError, KeyError):
        environment = dict(
            entry.split(b"=", 1)
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if b"=" in entry
        )
        return b"_".join(environment[f"SLURM_ARRAY_{part}_ID".encode()] for part in ("JOB", "TASK")).decode()
    return ""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def begun() -> Iterator[Cluster]:
    """The daemons, for as long as the block runs; what submits jobs finds them by SLURM_CONF."""
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
