"""`python -m gradience.bench.stage spec.json`: one stage of a Bench run, on whatever machine this is.

Exit codes: 0 the stage is there, 75 try again (another process makes it, or what it builds on is not there yet), 1 it
failed; why stands in the storage and on stderr.
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

USAGE = "usage: python -m gradience.bench.stage SPEC   (a file, or its address in a storage)"


def main(arguments: list[str]) -> int:
    """Do the stage of the one spec that is named."""
    if len(arguments) != 1:
        sys.stderr.write(f"{USAGE}\n")
        return 2
    began = time.perf_counter()  # before libraries are loaded, which takes seconds
    from gradience.bench.run.one import do_stage, read_spec
    from gradience.errors import GradienceError
    from gradience.executors.executor import FAILED

    try:
        return do_stage(read_spec(arguments[0]), began)
    except GradienceError as error:
        sys.stderr.write(f"error: {error}\nhint: {error.hint}\n")
        return FAILED


def _end(signum: int, frame: FrameType | None) -> None:
    """End as after an error: the lease is given back, and the processes of a training are ended."""
    sys.exit(128 + signum)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(sys.argv[1:]))
