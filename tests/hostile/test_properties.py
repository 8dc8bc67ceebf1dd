"""Every property of the suite that needs no model, with more examples than the suite has time for (R4)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import HANGS

from hostile.programs import record

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("adapters", "numbers", "plan", "report", "tasks", "telemetry", "compress")
EXAMPLES = int(os.environ.get("EXAMPLES", "300"))


@pytest.mark.hostile
def test_properties_with_more_examples(tmp_path):
    started = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "hypothesis and not slow",
        "--hypothesis-profile",
        "many",
        "-p",
        "no:cacheprovider",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--junitxml",
        str(tmp_path / "properties.xml"),
        *(f"tests/{room}" for room in ROOMS),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"EXAMPLES": str(EXAMPLES)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    tests = int(re.search(r'tests="(\d+)"', (tmp_path / "properties.xml").read_text(encoding="utf-8"))[1])
    assert tests >= 40
    record(
        "R4", "properties", properties=tests, examples=EXAMPLES, seconds=round(time.perf_counter() - started)
    )
