"""`python -m gradience.bench.run.worker FOLDER STAGE`: a process of `processes.py`, which makes one stage.

The order comes as JSON on standard input, a failure goes as JSON to standard output; what libraries print goes to
standard error. The arguments show in `ps` what the process makes.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from gradience.bench.run.logs import LINE
from gradience.bench.run.one import Order, make_stage


def main() -> None:
    """Make the stage. A bug ends with its traceback and exit code 1."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        order = json.load(sys.stdin)
        failure = make_stage(Order(**order | {"inputs": tuple(order["inputs"])}), Path(sys.argv[1]))
        if failure is not None:
            json.dump(asdict(failure), answer)


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # ends the processes of a training
    logging.basicConfig(level=logging.INFO, format=LINE)
    main()
