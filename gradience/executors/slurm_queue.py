"""What the queue of Slurm says of a job, with and without accounting: its state, and how it ended."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from gradience.executors.executor import RETRY, Ended

ENDED_STATES = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
    "LAUNCH_FAILED", "REVOKED",
)  # fmt: skip


def queue() -> dict[str, tuple[str, str]] | None:
    """Return job -> state and exit code, of all of this user that Slurm remembers; None where it does not answer."""
    form = "JobArrayID:|,State:|,exit_code:|"
    lines = answer(["squeue", "--me", "--array", "--states=all", "--noheader", "-O", form])
    if lines is None:
        return None
    rows = [[cell.strip() for cell in line.split("|")] for line in lines.splitlines()]
    return {row[0]: (row[1], row[2]) for row in rows if len(row) >= 3}


def answer(command: Sequence[str]) -> str | None:
    """Return what a command of Slurm says; None where it fails, as while the controller restarts."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout


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
