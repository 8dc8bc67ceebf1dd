"""`runtime.executor: slurm`: batch jobs of the cluster that this machine submits to.

Commands of equal needs that are handed in at once are one job array. How each ended comes from `squeue`, which knows it
with and without accounting; nothing is written for it, and no node need see a file of ours. Slurm queues again what a
lost node or a preemption ended; whether a command is done already, or an orphan still does it, the lease says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Sequence

from gradience.errors import UsageError
from gradience.executors.executor import Ended, Job, Order
from gradience.executors.slurm_jobs import PASSED_ON, options_of, script_of, unless_set
from gradience.executors.slurm_queue import ENDED_STATES, answer, ended_as, queue

LOOK = 5.0
"""Seconds between two looks at the queue."""


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
            answer(["sinfo", "-h", "-o", "%G"]) or ""
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
            timeouts, too_large = (self.ended_early[job.name, how] for how in ("TIMEOUT", "OUT_OF_MEMORY"))
            options = options_of(job, has_gpus=self.has_gpus, timeouts=timeouts, too_large=too_large)
            arrays.setdefault(tuple(options), []).append(job)
        self.waiting.clear()
        for asked, jobs in arrays.items():
            number = self._sbatch([*asked, f"--array=0-{len(jobs) - 1}"], script_of(jobs))
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
            *unless_set(["SBATCH_NO_REQUEUE"], "--requeue"),
            *unless_set(["SBATCH_OUTPUT"], "--output=/dev/null"),
            *unless_set(["SBATCH_EXPORT"], f"--export={names}"),
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

    def _over(self) -> list[Ended]:
        """What the queue says has ended. Where it cannot be asked now, nothing has."""
        known = queue() if self.jobs else None
        if known is None:
            return []
        over = []
        for number, job in list(self.jobs.items()):
            state, code = known.get(number, ("", ""))
            if state and state not in ENDED_STATES:
                continue
            del self.jobs[number]
            self.ended_early[job.name, state] += 1
            over.append(ended_as(job.name, number, state, code))
        return over
