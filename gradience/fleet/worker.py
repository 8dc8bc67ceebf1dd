"""A process that measures adapters: a request a line on standard input, a row a line on standard output.

JSON on both ways, so that nothing of a stranger's is unpacked in the process that asked. It ends when its input does:
then whoever asked has ended as well.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TextIO

from threadpoolctl import threadpool_limits

from gradience.fleet.measure import measure


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer every request, in order, until there are no more."""
    with threadpool_limits(limits=1, user_api="blas"):
        for line in requests:
            request = json.loads(line)
            row = measure(Path(request["path"]), request["name"], max_memory=request["max_memory"])
            answers.write(row.to_json(indent=None) + "\n")
            answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches whoever asked, who then closes the input
    for stream in (sys.stdin, sys.stdout):
        stream.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    serve(sys.stdin, sys.stdout)
