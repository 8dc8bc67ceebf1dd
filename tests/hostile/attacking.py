"""Running the attack as a program of its own, in as many parts as asked for, and reading what it came to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from killing import HANGS

TESTS = Path(__file__).resolve().parent.parent


def environment() -> dict[str, str]:
    """For programs of this package."""
    path = os.pathsep.join([str(TESTS), str(TESTS / "adapters"), str(TESTS / "bench"), *sys.path])
    return os.environ | {"PYTHONPATH": path}


def attacked(root: Path, *options: object, parts: int = 1) -> dict[str, Any]:
    """The tally over all parts; they run side by side."""
    command = [sys.executable, "-m", "hostile.attack"]
    running = [
        subprocess.Popen(
            [*command, str(root / str(part)), "--part", f"{part}/{parts}", *map(str, options)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for part in range(parts)
    ]
    tallies = []
    for process in running:
        out, err = process.communicate(timeout=HANGS)
        assert process.returncode == 0, err.decode()[-2000:]
        tallies.append(json.loads(out))
    return together(tallies)


def together(tallies: list[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several tallies; of seconds and memory the largest."""
    codes: dict[str, int] = {}
    for tally in tallies:
        for code, count in tally["codes"].items():
            codes[code] = codes.get(code, 0) + count
    sums = {name: sum(tally[name] for tally in tallies) for name in ("inputs", "runs", "cpu_seconds")}
    most = {
        name: max(tally[name] for tally in tallies) for name in ("slowest", "peak_bytes", "seconds", "kinds")
    }
    problems = [problem for tally in tallies for problem in tally["problems"]]
    return {**sums, **most, "codes": dict(sorted(codes.items())), "problems": problems}
