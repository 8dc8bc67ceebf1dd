"""Figures of a run of the whole harness, one file for each goal: `make hostile` says where, and puts them together.

A test calls `record("R1", cases=1500, …)` after its assertions; without the variable nothing is written.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "GRADIENCE_FIGURES"
"""Environment: the folder of the figures."""


def record(goal: str, what: str, **figures: Any) -> None:
    """Keep the figures of one goal, `what` of it was run, in the order in which they are to be shown."""
    folder = os.environ.get(VARIABLE)
    if folder:
        name = f"{goal} {what}".replace(" ", "-").replace("/", "-")
        text = json.dumps({"goal": goal, "what": what, **figures}, ensure_ascii=False)
        (Path(folder) / f"{name}.json").write_text(text + "\n", encoding="utf-8")
