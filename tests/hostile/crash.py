"""Writers killed or refused once, at a system call or at a counted moment, and what the next run makes of it."""

import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hostile.syscalls import Call, Ending, failing, loaded, signaled, undisturbed, writing_calls
from hostile.trainings import TRAININGS
from hostile.writers import LONG, TORN, WRITERS, Writer, lines_of, state

KILL = "signal=KILL"
ERRORS = ("error=ENOSPC", "error=EIO", "error=EDQUOT", "error=EROFS", "error=EACCES")
LONGEST = 2000
"""Bytes that one message may have."""
_MESSAGE = re.compile(r"^error: ", re.MULTILINE)
_LEFT = re.compile(r"\..+\.[0-9a-f]{8}\.(tmp|old)")


class Attempt:
    """One writer and one folder, prepared anew for each attempt."""

    def __init__(self, writer: Writer, root: Path) -> None:
        self.writer, self.before, self.folder = writer, root / "before", root / "now"
        self.work = partial(writer.work, self.folder)
        self.before.mkdir(parents=True)
        writer.prepare(self.before)
        self.anew()
        self.old = {unit: state(self.folder / unit) for unit in writer.units}
        loaded(self.work)
        self.new = {unit: state(self.folder / unit) for unit in writer.units}
        self.whole = {unit: state(self.folder / unit) for unit in writer.result}

    def calls(self, log: Path) -> list[Call]:
        """The calls that write."""
        self.anew()
        return writing_calls(self.work, self.folder, log)

    def anew(self) -> None:
        """Put there what stands before."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.before, self.folder)

    def problems(self, call: Call, how: str) -> list[str]:
        """What is wrong when this call fails this way; empty is right."""
        self.anew()
        ending = failing(self.work, call, how)
        wrong = self._after_kill(ending) if how == KILL else self.after_error(ending)
        wrong += self.next_run()
        return [
            f"{self.writer.name}: {call.name} #{call.number} {how}: {text} [{call.text}]" for text in wrong
        ]

    def killed(self, moment: int) -> tuple[list[str], str]:
        """Kill the writer at this moment; return the problems, and the state: old, new, none or remains."""
        self.anew()
        wrong = self._after_kill(undisturbed(signaled(self.work, moment, signal.SIGKILL)))
        here = {unit: state(self.folder / unit) for unit in self.writer.units}
        there = "new" if here == self.new else "old" if any(here.values()) else "none"
        remains = bool(left_below(self.folder))
        loaded(partial(self.writer.again or self.writer.work, self.folder))
        wrong += self._after_next()
        return [
            f"{self.writer.name}: killed at moment {moment}: {text}" for text in wrong
        ], there + "+" * remains

    def next_run(self) -> list[str]:
        """What is wrong with the run after it."""
        again = undisturbed(lambda: (self.writer.again or self.writer.work)(self.folder))
        if again.code != 0:
            return [f"the next run ends with {again.code}: {again.said[-300:]}"]
        return self._after_next()

    def _after_kill(self, ending: Ending) -> list[str]:
        if ending.code != -9:
            return [f"not killed: {ending.code} {ending.said[-300:]}"]
        return self._units(between_renames=True)

    def after_error(self, ending: Ending) -> list[str]:
        """What is wrong with a run that was refused something."""
        wrong = self._units(between_renames=False)
        if ending.code == 0:  # what failed was not needed
            return wrong + ([] if self._is_new() else ["exit 0 without the result"])
        if ending.code != 5:
            wrong.append(f"exit {ending.code}")
        if "Traceback" in ending.said or not 0 < len(ending.said) <= LONGEST:
            wrong.append(f"no message but {ending.said[-400:]!r}")
        if len(_MESSAGE.findall(ending.said)) != 1:
            wrong.append(f"{len(_MESSAGE.findall(ending.said))} messages: {ending.said[-400:]!r}")
        return wrong + left_below(self.folder)

    def _is_new(self) -> bool:
        return all(state(self.folder / unit) == self.new[unit] for unit in self.writer.units)

    def _units(self, *, between_renames: bool) -> list[str]:
        wrong = []
        for unit in self.writer.units:
            try:
                here = state(self.folder / unit)
            except ValueError as error:
                wrong.append(f"{unit} is half-written: {error}")
                continue
            if self.writer.appends:
                if not _grown(self.old[unit], here, self.new[unit]):
                    wrong.append(f"{unit} has other lines")
            elif here not in (self.old[unit], self.new[unit], {}):
                wrong.append(f"{unit} is neither old nor new")
            elif (
                not (here or self.writer.removes or (between_renames and "" not in self.old[unit]))
                and self.old[unit]
            ):
                wrong.append(f"{unit} is gone")
        return wrong

    def _after_next(self) -> list[str]:
        wrong = left_below(self.folder)
        if self.writer.appends:
            unit = self.writer.units[0]
            added = len(lines_of(self.new[unit])) - len(lines_of(self.old[unit]))
            if lines_of(state(self.folder / unit))[-added:] != lines_of(self.new[unit])[-added:]:
                wrong.append("the next run's lines are not whole")
        elif {unit: state(self.folder / unit) for unit in self.writer.result} != self.whole:
            wrong.append("the next run's result is another")
        return wrong


def left_below(folder: Path) -> list[str]:
    """Temporary files and folders that nobody will look for."""
    return [f"left: {path.name}" for path in folder.rglob(".*") if _LEFT.fullmatch(path.name)]


def _grown(old: dict[str, Any], here: dict[str, Any], new: dict[str, Any]) -> bool:
    lines = lines_of(here)
    lines = lines[:-1] if lines[-1:] == [TORN] else lines
    return len(lines_of(old)) <= len(lines) and lines == lines_of(new)[: len(lines)]


def main(root: str, hows: Sequence[str], writers: Sequence[str] = (), share: int = 1) -> dict[str, Any]:
    """Kill or fail a share of the calls, spread over all of them. hows: `signal=KILL`, `error=ENOSPC` …"""
    started, tally, problems = time.monotonic(), Counter(), []
    taken = [writer for writer in (*WRITERS, LONG, *TRAININGS) if writer.name in writers] or WRITERS
    for number, writer in enumerate(taken):
        attempt = Attempt(writer, Path(root, str(number)))
        chosen = attempt.calls(Path(root, f"{number}.calls"))[number % share :: share]
        for place, call in enumerate(chosen):
            tally[f"{writer.name}, calls"] += 1
            for how in hows if share == 1 else hows[place % len(hows) :][:1]:
                tally[how] += 1
                problems += attempt.problems(call, how)
    seconds = round(time.monotonic() - started, 1)
    return {"tally": dict(tally), "seconds": seconds, "problems": problems}
