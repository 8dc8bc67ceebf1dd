"""Eight processes that write the same at the same moment: one wins or all are done, and nothing is mixed.

python -m hostile.at_once ROOT [--rounds N] [--writers NAME …]     prints one JSON object: codes, problems, seconds
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

from hostile.crash import left_below
from hostile.syscalls import Ending, Work, begun, loaded
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


def problems(writer: Writer, endings: list[Ending], folder: Path, whole: Path) -> list[str]:
    """What is wrong with the endings or with what is there; empty is right."""
    wrong = [f"exit {end.code}: {end.said[-300:]}" for end in endings if not _may_end(writer, end)]
    codes = Counter(end.code for end in endings)
    if not codes[0] or (writer.name == "compress" and codes[0] > 1):
        wrong.append(f"{codes[0]} of {EIGHT} ended well")
    for unit in writer.units:
        here, one = state(folder / unit), state(whole / unit)
        if writer.appends:
            here, added = lines_of(here), lines_of(one)[-1:]
            if here[-codes[0] :] != added * codes[0]:
                wrong.append(f"{unit}: the last lines are not those of {codes[0]} processes")
        elif here != one:
            wrong.append(f"{unit} is not what one process alone writes")
    return [f"{writer.name}: {text}" for text in wrong + left_below(folder)]


def _may_end(writer: Writer, ending: Ending) -> bool:
    late = ONE_WINS.get(writer.name, set())
    return ending.code == 0 or (ending.code in late and ending.said.count("error: ") == 1)


def main(root: Path, rounds: int, names: list[str]) -> None:
    started, tally, wrong = time.monotonic(), Counter(), []
    every = (*WRITERS, *TRAININGS)
    for writer in [writer for writer in every if writer.name in names] or every:
        if writer.name in UNLOCKED:
            continue
        whole, now = root / writer.name / "whole", root / writer.name / "now"
        now.mkdir(parents=True)
        writer.prepare(now)
        before = shutil.copytree(now, root / writer.name / "before")
        loaded(lambda: writer.work(now))  # noqa: B023
        shutil.copytree(now, whole)
        for _ in range(
            1 if writer.name == "bench run" else rounds
        ):  # which takes as long as the others together
            shutil.rmtree(now)
            shutil.copytree(before, now)
            endings = at_once(lambda: writer.work(now))  # noqa: B023
            tally[writer.name] += 1
            tally.update(f"exit {ending.code}" for ending in endings)
            wrong += problems(writer, endings, now, whole)
    seconds = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps({"tally": dict(tally), "seconds": seconds, "problems": wrong}) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--writers", nargs="*", default=[])
    options = parser.parse_args()
    main(options.root, options.rounds, options.writers)
