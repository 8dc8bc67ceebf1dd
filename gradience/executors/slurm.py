"""`runtime.executor: slurm`: batch jobs of the cluster that this machine submits to.

Commands of equal needs that are handed in at once are one job array. How each ended comes from `squeue`, which knows it
with and without accounting; nothing is written for it, and no node need see a file of ours. Slurm queues again what a
lost node or a preemption ended; whether a command is done already, or an orphan still does it, the lease says.

What this file asks for, the variables of sbatch replace: with SBATCH_TIMELIMIT set no time is asked for, and
SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_QOS and all others are sbatch's business alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from math import ceil

from gradience.errors import UsageError
from gradience.executors.executor import RETRY, Ended, Job, Order

LOOK = 5.0
"""Seconds between two looks at the queue."""
TIME_MARGIN, LEAST_MINUTES = 3.0, 15.0
"""A limit on the time is so many times the forecast, and at least so much. After a time out it is doubled."""
MEMORY_MARGIN, PROCESS_BYTES = 1.5, 2 * 2**30
"""Of a command that computes on the processor; and what Python and PyTorch take before they compute."""
MOST_IN_ARRAY = 1000
"""Slurm's MaxArraySize is 1001 by default."""
GPUS_BY = ("SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK", "SBATCH_GRES")
ENDED_STATES = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
    "LAUNCH_FAILED", "REVOKED",
)  # fmt: skip
PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH",
    "LD_LIBRARY_PATH", "CUDA_HOME", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE",
    "TRANSFORMERS_OFFLINE", "GRADIENCE_SCRATCH", "GRADIENCE_ENGINE_PYTHON",
    "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
    "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
)  # fmt: skip
"""Variables that a job gets where they are set. Not among them: tokens and keys, which sbatch would hand to the
controller, where they are kept on disk."""


class SlurmExecutor:
    """Runs commands as batch jobs of Slurm."""

    def __init__(self, order: Order) -> None:
        missing = [name for name in ("sbatch", "squeue", "scancel", "sinfo") if shutil.which(name) is None]
        if missing:
            raise UsageError(
                f"runtime.executor=slurm: there is no {missing[0]} on this machine",
                code="slurm-missing",
                hint="start the run on a machine from which jobs are submitted, such as a login node",
            )
        self.order = order
        self.waiting: list[Job] = []
        self.jobs: dict[str, Job] = {}
        """Job of Slurm, such as `17_0` -> what it runs."""
        self.ended_early: Counter[tuple[str, str]] = Counter()
        """(name, TIMEOUT or OUT_OF_MEMORY) -> how often."""
        self.has_gpus = order.device not in ("cpu", "mps") and "gpu" in (
            _asked(["sinfo", "-h", "-o", "%G"]) or ""
        )

    @property
    def room(self) -> int | None:
        """Slurm queues what it has no resources for."""
        workers = self.order.workers
        return None if workers is None else max(0, workers - len(self.jobs) - len(self.waiting))

    def submit(self, job: Job) -> None:
        """Hand the command in at the next `ended`, in an array with those of equal needs."""
        self.waiting.append(job)

    def ended(self, seconds: float) -> list[Ended]:
        """What has ended, within so many seconds. Raises UsageError (`slurm-refused`) for what sbatch does not take."""
        self._hand_in()
        until = time.monotonic() + seconds
        while not (over := self._over()) and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK, left))
        return over

    def close(self) -> None:
        """Cancel what waits and what runs."""
        self.waiting.clear()
        if self.jobs:
            subprocess.run(["scancel", *self.jobs], capture_output=True, check=False)
            self.jobs.clear()

    def _hand_in(self) -> None:
        arrays: dict[tuple[str, ...], list[Job]] = {}
        for job in self.waiting:
            arrays.setdefault(tuple(self._options(job)), []).append(job)
        self.waiting.clear()
        for options, equal in arrays.items():
            for start in range(0, len(equal), MOST_IN_ARRAY):
                jobs = equal[start : start + MOST_IN_ARRAY]
                number = self._sbatch([*options, f"--array=0-{len(jobs) - 1}"], script_of(jobs))
                self.jobs |= {f"{number}_{index}": job for index, job in enumerate(jobs)}

    def _sbatch(self, options: Sequence[str], script: str) -> str:
        """The number of a new job. Variables of a job that this process may be part of are not passed on."""
        environment = {
            name: value
            for name, value in (os.environ | self.order.environment).items()
            if not name.startswith("SLURM_") or name == "SLURM_CONF"
        }
        names = ",".join(name for name in (*PASSED_ON, *self.order.environment) if name in environment)
        command = [
            *("sbatch", "--parsable", "--ntasks=1", "--job-name=gradience", *options),
            *_unless_set(["SBATCH_NO_REQUEUE"], "--requeue"),
            *_unless_set(["SBATCH_OUTPUT"], "--output=/dev/null"),
            *_unless_set(["SBATCH_EXPORT"], f"--export={names}"),
        ]
        done = subprocess.run(
            command, input=script, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise UsageError(
                f"sbatch refuses: {done.stderr.strip()}",
                code="slurm-refused",
                hint="give what it lacks, or ask for less, by its variables: SBATCH_PARTITION, SBATCH_ACCOUNT,"
                " SBATCH_TIMELIMIT, SBATCH_MEM_PER_NODE … (docs/clusters/slurm.md)",
            )
        return done.stdout.strip().partition(";")[0]

    def _options(self, job: Job) -> list[str]:
        """What a job asks for: the forecast with a margin; after a time out, or where memory ran out, twice as much."""
        needs, options = job.needs, list[str]()
        timeouts, too_large = (self.ended_early[job.name, how] for how in ("TIMEOUT", "OUT_OF_MEMORY"))
        if needs.minutes is not None:
            minutes = max(LEAST_MINUTES, TIME_MARGIN * needs.minutes) * 2**timeouts
            options += _unless_set(["SBATCH_TIMELIMIT"], f"--time={ceil(minutes)}")
        if self.has_gpus and needs.gpus:
            return [*options, *_unless_set(GPUS_BY, "--nodes=1", f"--gpus-per-node={needs.gpus}")]
        if needs.memory_bytes is not None:
            mebibytes = (MEMORY_MARGIN * needs.memory_bytes + PROCESS_BYTES) * 2**too_large / 2**20
            options += _unless_set(["SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU"], f"--mem={ceil(mebibytes)}M")
        return options if self.has_gpus else [*options, f"--cpus-per-task={needs.cpus}"]

    def _over(self) -> list[Ended]:
        """What the queue says has ended. Where it cannot be asked now, nothing has."""
        queue = _queue() if self.jobs else None
        if queue is None:
            return []
        over = []
        for number, job in list(self.jobs.items()):
            state, code = queue.get(number, ("", ""))
            if state and state not in ENDED_STATES:
                continue
            del self.jobs[number]
            self.ended_early[job.name, state] += 1
            over.append(ended_as(job.name, number, state, code))
        return over


def ended_as(name: str, number: str, state: str, code: str) -> Ended:
    """How a job ended, by its state and `CODE:SIGNAL`. One that Slurm has forgotten is tried again: it may be done.

    >>> ended_as("42/audit", "17_0", "FAILED", "75:0").code, ended_as("42/audit", "17_0", "FAILED", "0:9").code
    (75, -9)
    """
    exits, _, signal = code.partition(":")
    if not state:
        return Ended(name, RETRY)
    if state in ("COMPLETED", "FAILED") and exits.isdigit() and signal.isdigit():
        return Ended(name, -int(signal) or int(exits))
    return Ended(name, -9, f"job {number} of Slurm ended with {state}")


def script_of(jobs: Sequence[Job]) -> str:
    """The script of an array: the command of each, in its place. Where a node has no such folder, there is no log."""
    lines = ["#!/bin/sh", 'case "$SLURM_ARRAY_TASK_ID" in']
    for index, job in enumerate(jobs):
        folder, log = shlex.quote(str(job.log.parent)), shlex.quote(str(job.log))
        lines += [
            f"{index})",
            f"  if (mkdir -p {folder} && true >>{log}) 2>/dev/null; then exec >>{log} 2>&1; fi",
            f"  exec {shlex.join(job.command)} ;;",
        ]
    return "\n".join([*lines, "esac", ""])


def _queue() -> dict[str, tuple[str, str]] | None:
    """Job -> state and exit code, of all of this user that Slurm remembers; None where it does not answer."""
    form = "JobArrayID:|,State:|,exit_code:|"
    lines = _asked(["squeue", "--me", "--array", "--states=all", "--noheader", "-O", form])
    if lines is None:
        return None
    rows = [[cell.strip() for cell in line.split("|")] for line in lines.splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) >= 3}


def _asked(command: Sequence[str]) -> str | None:
    """What a command of Slurm says; None where it fails, as while the controller restarts."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout


def _unless_set(variables: Sequence[str], *options: str) -> list[str]:
    """The options, unless sbatch has a variable that says it: options would win over that."""
    return [] if any(name in os.environ for name in variables) else list(options)
