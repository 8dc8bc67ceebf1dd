"""A process that works on adapters: a request a line on standard input, an answer a line on standard output.

JSON on both ways, so that nothing of a stranger's is unpacked in the process that asked. It ends when its input does:
then whoever asked has ended as well.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from threadpoolctl import threadpool_limits

Request = dict[str, Any]
"""`task`, a name of TASKS; `path` and `name` of an adapter; and what else the task takes."""


def measure(request: Request) -> str:
    """Return the row of an adapter."""
    from gradience.fleet.measure import measure

    row = measure(Path(request["path"]), request["name"], **request["options"])
    return row.to_json(indent=None)


def squeeze(request: Request) -> str:
    """Return what became of an adapter that was to be written smaller."""
    from gradience.fleet.squeeze import as_json, squeeze
    from gradience.reports.fleet import FleetRow

    row = FleetRow.model_validate(request["row"])
    places = Path(request["path"]), Path(request["target"])
    return json.dumps(as_json(squeeze(row, *places, request["rank"], request["options"])))


TASKS: dict[str, Callable[[Request], str]] = {"measure": measure, "squeeze": squeeze}


def answer(request: Request) -> bytes:
    """Return the answer to a request, a line of JSON."""
    return TASKS[request["task"]](request).encode() + b"\n"


def serve(requests: TextIO) -> None:
    """Answer every request on standard output, in order, until there are no more."""
    with threadpool_limits(limits=1, user_api="blas"):
        for line in requests:
            sys.stdout.buffer.write(answer(json.loads(line)))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever asked was killed: nobody waits for the answer
    serve(sys.stdin)
