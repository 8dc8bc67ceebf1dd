"""Run a program of this folder by itself, where no other test has left a thread; read its JSON, keep its figures.

`python -m hostile.programs MODULE '{"root": "/tmp/x", …}'` prints what `main` of hostile.MODULE answers.
"""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from killing import HANGS

TESTS = Path(__file__).resolve().parent.parent
FOLDERS = ("", "adapters", "bench", "evaluate", "training")
FIGURES = "GRADIENCE_FIGURES"
"""Environment: the folder of the figures of a run of the whole harness, one file for each goal."""


def answer_of(module: str, **keywords: Any) -> Any:
    """Return what `main` of hostile.<module> answers in a process of its own, which must exit with 0."""
    path = os.pathsep.join([*(str(TESTS / folder) for folder in FOLDERS), str(TESTS.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "hostile.programs", module, json.dumps(keywords, default=str)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def record(goal: str, what: str, **figures: Any) -> None:
    """Keep the figures of one goal and what of it was run, in the order in which they are shown."""
    folder = os.environ.get(FIGURES)
    if folder:
        name = f"{goal} {what}".replace(" ", "-").replace("/", "-")
        text = json.dumps({"goal": goal, "what": what, **figures}, ensure_ascii=False)
        (Path(folder) / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    json.dump(import_module(f"hostile.{sys.argv[1]}").main(**json.loads(sys.argv[2])), sys.stdout)
