"""Concurrent writers of the same output: eight at once, or a second one while the first is stopped.

One wins or all succeed, and no output is mixed, lost or incomplete.
"""

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from killing import moments_of

from hostile.crash import left_below
from hostile.syscalls import MOMENTS, Ending, Work, begun, loaded, signaled, undisturbed
from hostile.trainings import TRAININGS
from hostile.writers import WRITERS, Writer, lines_of, state

EIGHT = 8
UNLOCKED = ("records", "telemetry", "training")
"""Parts of a verb that holds the lock, and what one process has for itself."""
ONE_WINS = {"compress": {2}, "stages": {6}, "stages made again": {6}, "bench run": {6}}
"""How those end who come too late. The others may end well, one after the other."""


def at_once(work: Work) -> list[Ending]:
    """Let eight children begin at the same moment."""
    waiting, release = os.pipe()

    def released() -> int | None:
        os.read(waiting, 1)
        return work()

    ends = [begun(released) for _ in range(EIGHT)]
    os.write(release, b"." * EIGHT)
    os.close(waiting)
    os.close(release)
    return [end() for end in ends]


def stopped_at(work: Work, moment: int) -> list[Ending]:
    """Stop `work` at `moment`, run a second process to its end, then continue the first."""
    end = begun(signaled(work, moment, signal.SIGSTOP))
    assert os.WIFSTOPPED(os.waitpid(end.child, os.WUNTRACED)[1]), "it ended before it was stopped"
    second = undisturbed(work)
    os.kill(end.child, signal.SIGCONT)
    return [end(), second]


def problems(writer: Writer, endings: list[Ending], folder: Path, whole: Path) -> list[str]:
    """Return the problems of the endings and of the output; empty if there are none."""
    late = {2, 6} if len(endings) == 2 else ONE_WINS.get(writer.name, set())
    wrong = [
        f"exit {end.code}: {end.said[-300:]}"
        for end in endings
        if end.code and (end.code not in late or end.said.count("error: ") != 1)
    ]
    done = sum(end.code == 0 for end in endings)
    if not done or (writer.name == "compress" and done > 1):
        wrong.append(f"{done} of {len(endings)} ended well")
    for unit in writer.units:
        here, one = state(folder / unit), state(whole / unit)
        if writer.appends:
            if lines_of(here)[-done:] != lines_of(one)[-1:] * done:
                wrong.append(f"{unit}: the last lines are not those of {done} processes")
        elif here != one:
            wrong.append(f"{unit} is not what one process alone writes")
    return [f"{writer.name}: {text}" for text in wrong + left_below(folder)]


def attempts(writer: Writer, now: Path, rounds: int, stops: int) -> Iterator[int]:
    """Yield the moments at which to stop, spread over the whole run; or 0 for each round."""
    if stops:
        count = moments_of(lambda: writer.work(now), MOMENTS)
        yield from range(1 + count // (2 * stops), count + 1, max(1, count // stops))
    else:  # a Bench run takes as long as all other writers together
        yield from [0] * (1 if writer.name == "bench run" else rounds)


def main(root: str, rounds: int = 5, stops: int = 0, writers: Sequence[str] = ()) -> dict[str, Any]:
    """Return exit codes, problems and seconds of `rounds` rounds of eight processes, or of `stops` stops of one."""
    started, tally, wrong = time.monotonic(), Counter(), []
    every = [writer for writer in (*WRITERS, *TRAININGS) if writer.name not in UNLOCKED]
    for writer in [writer for writer in every if writer.name in writers] or every:
        whole, now, before = (Path(root, writer.name, name) for name in ("whole", "now", "before"))
        before.mkdir(parents=True)
        writer.prepare(before)
        shutil.copytree(before, whole)
        loaded(lambda: writer.work(whole))  # noqa: B023
        shutil.copytree(before, now)
        for moment in attempts(writer, now, rounds, stops):
            shutil.rmtree(now)
            shutil.copytree(before, now)
            work = lambda: writer.work(now)  # noqa: B023, E731
            endings = stopped_at(work, moment) if moment else at_once(work)
            tally[writer.name] += 1
            tally.update(f"exit {ending.code}" for ending in endings)
            wrong += problems(writer, endings, now, whole)
    seconds = round(time.monotonic() - started, 1)
    return {"tally": dict(tally), "seconds": seconds, "problems": wrong}
