"""A real file system that is full: each writer with no page left, with one, two … until it has enough.

unshare -rm python -m hostile.full_disk ROOT     mounts it for itself; prints one JSON object: runs, problems, seconds
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from hostile.crash import Attempt
from hostile.syscalls import undisturbed
from hostile.writers import WRITERS

PAGE = os.sysconf("SC_PAGE_SIZE")
SIZE = 512 * PAGE


def fill(file: Path, left: int) -> None:
    """Write until nothing fits, and give back `left` pages."""
    with file.open("wb", buffering=0) as filler:
        size = 0
        try:
            while True:
                size += filler.write(b"\0" * PAGE)
        except OSError:
            filler.truncate(size - left * PAGE)


def main(root: Path) -> None:
    started, tally, problems = time.monotonic(), Counter(), []
    for number, writer in enumerate(WRITERS):
        disk = root / str(number)
        disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], check=True)
        attempt, ended_well, pages = Attempt(writer, disk), False, 0
        while not ended_well:
            attempt.anew()
            fill(disk / "filler", pages)
            ending = undisturbed(lambda: writer.work(attempt.folder))  # noqa: B023
            (disk / "filler").unlink()
            wrong = attempt.after_error(ending) + attempt.next_run()
            problems += [f"{writer.name}: {pages} pages left: {text}" for text in wrong]
            tally[writer.name] += 1
            ended_well, pages = ending.code == 0, pages + 1
    seconds = round(time.monotonic() - started, 1)
    sys.stdout.write(json.dumps({"tally": dict(tally), "seconds": seconds, "problems": problems}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
