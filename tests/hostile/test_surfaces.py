"""Hostile inputs, surface by surface: nothing written or executed, no traceback, within time and memory (R19)."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest
from killing import HANGS

from hostile import surfaces
from hostile.attacking import environment
from hostile.figures import record

NAMES = sorted(module.name for module in pkgutil.iter_modules(surfaces.__path__))


def attacked(root, *options):
    """The tallies of surfaces, by a program of its own: it forks, so no thread may run beside it."""
    command = [sys.executable, "-m", "hostile.surface", str(root), *map(str, options)]
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_sample_of_every_surface(tmp_path):
    tallies = attacked(tmp_path, *NAMES, "--share", 10)
    assert [problem for tally in tallies for problem in tally["problems"]] == []
    assert all(tally["inputs"] for tally in tallies)


@pytest.mark.hostile
@pytest.mark.parametrize("name", NAMES)
def test_every_input_of_a_surface(name, tmp_path):
    (tally,) = attacked(tmp_path, name)
    assert tally["problems"] == []
    record(
        "R19",
        tally["what"],
        **{
            "inputs": tally["inputs"],
            "writes outside the output": tally["writes"],
            "executions": tally["executions"],
            "tracebacks": tally["tracebacks"],
            "over 10 s or 500 MB (docs/limits.md)": tally["over"],
            "slowest, seconds": round(tally["slowest"], 1),
            "largest, MB": round(tally["peak_bytes"] / 1e6),
            "seconds": round(tally["seconds"]),
        },
    )
