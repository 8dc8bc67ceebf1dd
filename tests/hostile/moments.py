"""Writers killed at counted moments (at all of them, or at some over the whole and the last ten), or refused room.

A moment is a call, a return or a call into C in the files of `syscalls.MOMENTS`. It needs no strace.
"""

import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from killing import moments_of

from hostile.crash import Attempt
from hostile.syscalls import MOMENTS, limited, signaled, undisturbed
from hostile.writers import SMALLEST, WRITERS


def main(root: str, kills: Mapping[str, int]) -> dict[str, Any]:
    """Return the states that writers left, and problems. kills: writer -> number of kills; 0: at every moment."""
    tally: dict[str, Counter[str]] = {}
    problems: list[str] = []
    for writer in (each for each in (*WRITERS, *SMALLEST) if each.name in kills):
        attempt, count = Attempt(writer, Path(root, writer.name)), kills[writer.name]
        attempt.anew()
        moments = moments_of(attempt.work, MOMENTS)
        chosen = {*range(1, moments, max(1, moments // (count or moments))), *range(moments - 9, moments + 1)}
        tally[writer.name] = Counter()
        for moment in sorted(chosen):
            wrong, there = attempt.killed(moment)
            problems += wrong
            tally[writer.name][there] += 1
        if writer.name.startswith("compress"):
            for size in (0, 100, 1500, 2500):  # in the header, in the weights, in the report
                attempt.anew()
                problems += attempt.after_error(undisturbed(limited(attempt.work, size)))
        if writer.name == "compress":  # where Ctrl-C is no crash
            attempt.anew()
            code = undisturbed(signaled(attempt.work, moments // 2, signal.SIGINT)).code
            problems += [] if code == 130 and not (attempt.folder / "out").exists() else [f"Ctrl-C: {code}"]
    return {"tally": tally, "problems": problems}
