"""What Slurm is asked for: the options of a job, the variables that it gets, and the script of an array.

An option is left out where a variable of sbatch says it (SBATCH_TIMELIMIT and the like), since options would win over
variables. So nothing about a site stands in a config.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from math import ceil

from gradience.executors.executor import Job

TIME_MARGIN, LEAST_MINUTES = 3.0, 15.0
"""A limit on the time is so many times the forecast, and at least so much. After a time out it is doubled."""
MEMORY_MARGIN = 1.5
"""Over what a command needs that computes on the processor. Where that ran out it is doubled."""
GPUS_BY = ("SBATCH_GPUS", "SBATCH_GPUS_PER_NODE", "SBATCH_GPUS_PER_TASK", "SBATCH_GRES")
PASSED_ON = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH",
    "LD_LIBRARY_PATH", "CUDA_HOME", "OMP_NUM_THREADS", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_DATASETS_CACHE",
    "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE", "GRADIENCE_SCRATCH",
    "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
    "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
)  # fmt: skip
"""Variables that a job gets where they are set. Not among them: tokens and keys, which sbatch would hand to the
controller, where they are kept on disk."""


def options_of(job: Job, *, has_gpus: bool, timeouts: int = 0, too_large: int = 0) -> list[str]:
    """Return the options of sbatch for a job. timeouts, too_large: how often it ran out of time, or of memory."""
    needs, options = job.needs, list[str]()
    if needs.minutes is not None:
        minutes = max(LEAST_MINUTES, TIME_MARGIN * needs.minutes) * 2**timeouts
        options += unless_set(["SBATCH_TIMELIMIT"], f"--time={ceil(minutes)}")
    if has_gpus and needs.gpus:
        return [*options, *unless_set(GPUS_BY, "--nodes=1", f"--gpus-per-node={needs.gpus}")]
    if needs.memory_bytes is not None:
        mebibytes = MEMORY_MARGIN * needs.memory_bytes * 2**too_large / 2**20
        options += unless_set(["SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU"], f"--mem={ceil(mebibytes)}M")
    return options if has_gpus else [*options, f"--cpus-per-task={needs.cpus}"]


def unless_set(variables: Sequence[str], *options: str) -> list[str]:
    """Return the options, unless sbatch has a variable that says it."""
    return [] if any(name in os.environ for name in variables) else list(options)


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
