"""Run a program of this folder by itself, where no other test has left a thread, and read its one JSON object."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from killing import HANGS

TESTS = Path(__file__).resolve().parent.parent
FOLDERS = ("", "adapters", "bench", "evaluate", "training")


def answer_of(module: str, *options: object, inside: Sequence[str] = ()) -> dict[str, Any]:
    """What `python -m hostile.<module>` prints; it must end well. inside: a command that runs another one."""
    path = os.pathsep.join([*(str(TESTS / folder) for folder in FOLDERS), str(TESTS.parent), *sys.path])
    done = subprocess.run(
        [*inside, sys.executable, "-m", f"hostile.{module}", *map(str, options)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
