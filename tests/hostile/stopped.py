"""A writer stopped in the middle while a second one writes the same, and continued: nothing is lost or half-written.

python -m hostile.stopped ROOT MOMENTS     prints one JSON object: codes of both, problems, seconds
"""

import json
import os
import shutil
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from killing import WRITING, each_moment, moments_of, watched

from hostile.crash import left_below
from hostile.syscalls import Ending, Work, begun, loaded, undisturbed
from hostile.writers import WRITERS, Writer, state

MEANWHILE = ("compress", "compress --force", "audit --output", "audit --append", "stages", "bench aggregate")


def stopped_at(work: Work, moment: int, files: set[str], meanwhile: Work) -> tuple[Ending, Ending]:
    """Do `work`, stopped at `moment`; do `meanwhile` to its end; continue the first."""

    def stop(number: int) -> None:
        if number == moment:
            os.kill(os.getpid(), signal.SIGSTOP)

    def stopping() -> int | None:
        each_moment(files, stop)
        try:
            return work()
        finally:
            sys.setprofile(None)

    end = begun(stopping)
    assert os.WIFSTOPPED(os.waitpid(end.child, os.WUNTRACED)[1]), "it ended before it was stopped"
    second = undisturbed(meanwhile)
    os.kill(end.child, signal.SIGCONT)
    return end(), second


def problems(writer: Writer, ends: tuple[Ending, Ending], folder: Path, whole: Path) -> list[str]:
    """What is wrong with how both ended, or with what is there."""
    wrong = [f"exit {end.code}: {end.said[-300:]}" for end in ends if end.code not in (0, 2, 6)]
    if not any(end.code == 0 for end in ends):
        wrong.append("neither ended well")
    for unit in writer.units:
        here, one = state(folder / unit), state(whole / unit)
        if writer.appends:
            here, one = {"": here[""][-1:]}, {"": one[""][-1:]}
        if here != one:
            wrong.append(f"{unit} is not what one alone writes")
    return wrong + left_below(folder)


def main(root: Path, count: int) -> None:
    started, tally, wrong = time.monotonic(), Counter(), []
    files = watched("telemetry/writer.py", "bench/run/stages.py", *WRITING)
    for writer in (writer for writer in WRITERS if writer.name in MEANWHILE):
        whole, now, before = (root / writer.name / name for name in ("whole", "now", "before"))
        before.mkdir(parents=True)
        writer.prepare(before)
        shutil.copytree(before, now)
        loaded(lambda: writer.work(now))  # noqa: B023
        shutil.copytree(now, whole)
        shutil.rmtree(now)
        shutil.copytree(before, now)
        moments = moments_of(lambda: writer.work(now), files)  # noqa: B023
        for moment in range(1 + moments // (2 * count), moments + 1, max(1, moments // count)):
            shutil.rmtree(now)
            shutil.copytree(before, now)
            work = lambda: writer.work(now)  # noqa: B023, E731
            ends = stopped_at(work, moment, files, work)
            tally.update([writer.name, f"{writer.name}: {ends[0].code} {ends[1].code}"])
            wrong += [f"{writer.name} at {moment}: {text}" for text in problems(writer, ends, now, whole)]
    seconds = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps({"tally": dict(tally), "seconds": seconds, "problems": wrong}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
