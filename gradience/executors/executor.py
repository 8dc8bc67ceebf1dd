"""The contract of an executor: it runs commands on machines that have what each needs, and says how each ended.

A command reads a JSON spec, writes one folder whole, and ends with 0 (it is there), 75 (try again: somebody else has
it, or what it builds on is not there yet) or 1 (it failed, and has said why in the storage). Anything else, a signal
above all, means that the machine or somebody ended it. An executor retries what its cluster lost; the rest is the
caller's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from gradience.artifacts.stage_spec import StageNeeds
from gradience.errors import UsageError
from gradience.words import counted

DONE, RETRY, FAILED = 0, 75, 1
"""Exit codes of a command; 75 is EX_TEMPFAIL of sysexits.h."""


@dataclass(frozen=True, slots=True)
class Job:
    """A command, and what it needs."""

    name: str
    """Such as `42/uniform_median/train`; unique within a run."""
    command: Sequence[str]
    needs: StageNeeds
    log: Path
    """Gets what the command says."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended."""

    name: str
    code: int
    """Its exit code; negative for a signal, as `subprocess` has it."""
    said: str = ""
    """What the cluster says about it, where it ended otherwise than by itself."""


@dataclass(frozen=True, slots=True)
class Order:
    """What an executor is told at its beginning."""

    workers: int | None = None
    """Commands at once; by default as many as there is room for."""
    device: str = "auto"
    """`cpu`: no command needs a GPU."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that every command gets besides its machine's own."""


def refuse_too_many_gpus(job: Job, most: int, where: str) -> None:
    """Raise UsageError (`too-few-gpus`) for a job that would wait for ever. most: GPUs that one machine has.

    where: what has so many, such as `this machine`.
    """
    if job.needs.gpus > most:
        raise UsageError(
            f"{job.name} needs {counted(job.needs.gpus, 'GPU')}, and {where} has {counted(most, 'GPU')}",
            code="too-few-gpus",
            hint="set runtime.processes to the number of GPUs of one machine or fewer",
        )


class Executor(Protocol):
    """Where commands are run."""

    has_gpus: bool
    """Whether the machines have GPUs that the run may use."""

    @property
    def room(self) -> int | None:
        """How many commands may be handed in at once; None for any number, which the cluster queues."""

    def submit(self, job: Job) -> None:
        """Have a command run, now or when there is room. Raises UsageError (`too-few-gpus`): there never will be."""

    def ended(self, seconds: float) -> list[Ended]:
        """Wait for at most so many seconds, or until something has ended, and return what has."""

    def close(self) -> None:
        """End what still runs, and leave the cluster."""
