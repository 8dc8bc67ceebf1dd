"""`gradience fleet --executor`: the adapters in equal parts, each measured by a command on whatever machine takes it.

A command is `gradience fleet` itself on a list of paths: it goes on where it was killed, and its rows are those
that the same adapters have when measured here. All machines see the files under the same paths.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradience.artifacts.fleet import FleetRow
from gradience.artifacts.stage_spec import StageNeeds
from gradience.artifacts.whole import write_whole
from gradience.errors import OutputError, UsageError
from gradience.executors import executor
from gradience.executors.executor import DONE, Ended, Job, Order
from gradience.fleet.discover import Member
from gradience.fleet.journal import read_rows
from gradience.fleet.verb import measured_rows

INCOMPLETE = 4
"""Exit code of `gradience fleet` where an adapter could not be measured: its row says why."""
ATTEMPTS = 3
"""Of a part whose command was ended from outside."""
LOOK = 10.0
"""Seconds to wait for something to end, before looking again."""


@dataclass(frozen=True, slots=True)
class OnExecutor:
    """Measures adapters in so many parts, as `audit_fleet(measure=…)` takes it.

    >>> elsewhere = OnExecutor("local", parts=2, folder=Path("fleet.parts"))
    >>> audit_fleet("adapters", "fleet.jsonl", measure=elsewhere).adapters
    3

    executor: a name in `executors`.   parts: commands, all at once where there is room.
    folder: for lists, rows and logs, which all machines see; it is removed at the end.
    root: what names are relative to, as for `audit_fleet`.

    Calling it raises MissingExtra for an executor without its library, OutputError (`part-failed`, `write-failed`),
    UsageError (`not-ours`) for a folder with anything else in it.
    """

    executor: str
    parts: int
    folder: Path
    root: Path = Path()
    attempts: Counter[str] = field(default_factory=Counter)

    def __call__(self, members: Sequence[Member], **options: Any) -> Iterator[FleetRow]:
        """Yield the row of every adapter, part after part as they end. options: keywords of `measure`."""
        self._refuse_foreign()
        listed = [member for member in members if _fits_a_line(member)]
        jobs = [
            self._job(number, listed[number :: self.parts], options)
            for number in range(min(self.parts, len(listed)))
        ]
        for job in self._done(jobs):
            yield from read_rows(_rows_beside(job.log))
        shutil.rmtree(self.folder, ignore_errors=True)
        yield from measured_rows([member for member in members if not _fits_a_line(member)], **options)

    def _refuse_foreign(self) -> None:
        """Raise UsageError (not-ours) for a link, and for a folder with files that no part wrote."""
        if os.path.lexists(self.folder) and not (
            self.folder.is_dir()
            and not self.folder.is_symlink()
            and all(map(_is_of_a_part, os.listdir(self.folder)))
        ):
            raise UsageError(
                f"{self.folder}: not a folder that only parts of a fleet wrote, so nothing is written to it",
                code="not-ours",
                hint="move it away, or give another --output",
            )

    def _done(self, waiting: list[Job]) -> Iterator[Job]:
        """The parts, as they are measured. Raises OutputError (part-failed)."""
        if not waiting:
            return
        running: dict[str, Job] = {}
        order = Order(workers=self.parts, device="cpu")
        with closing(executor(self.executor, order)) as machines:
            while waiting or running:
                while waiting and machines.room != 0:
                    job = waiting.pop()
                    running[job.name] = job
                    machines.submit(job)
                for ended in machines.ended(LOOK):
                    job = running.pop(ended.name)
                    if self._is_measured(job, ended):
                        yield job
                    else:
                        waiting.append(job)

    def _is_measured(self, job: Job, ended: Ended) -> bool:
        """False for a part to try again."""
        if ended.code in (DONE, INCOMPLETE):
            return True
        self.attempts[job.name] += 1
        if ended.code < 0 and self.attempts[job.name] < ATTEMPTS:
            return False
        raise OutputError(
            f"{job.name} of the fleet: its command ended with {ended.code}{f': {ended.said}' if ended.said else ''}",
            code="part-failed",
            hint=f"{job.log} has what it said; the same call goes on from what is measured",
        )

    def _job(self, number: int, part: Sequence[Member], options: dict[str, Any]) -> Job:
        """The command that measures a part."""
        folder = self.folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{member.path.absolute()}\n" for member in part)
        paths = write_whole(folder / f"{number}.txt", [lines.encode("utf-8", "surrogateescape")])
        command = [sys.executable, "-m", "gradience", "fleet", str(paths)]
        command += ["--root", str(self.root.resolve()), "--workers", "1", "--quiet"]
        if options.get("max_memory") is not None:
            command += ["--max-memory", str(options["max_memory"])]
        if options.get("allow_pickle"):
            command += ["--allow-pickle"]
        log = folder / f"{number}.log"
        return Job(f"part {number}", [*command, "--output", str(_rows_beside(log))], StageNeeds(), log)


def _is_of_a_part(name: str) -> bool:
    """Whether a part writes a file of this name: its list, log and rows, and what a kill leaves of them."""
    return re.fullmatch(r"\.?\d+\.(txt|log|jsonl)(\..+)?", name) is not None


def _rows_beside(log: Path) -> Path:
    return log.with_suffix(".jsonl")


def _fits_a_line(member: Member) -> bool:
    """Whether a line of a list names it: no line break in it, and no space at its end."""
    text = str(member.path)
    return text.strip() == text and len(text.splitlines()) == 1
