"""The suite in a name space of its own, in which there is no network (R17)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import HANGS

from hostile.programs import record

ROOT = Path(__file__).resolve().parents[2]
ALONE = ["unshare", "--map-root-user", "--net"]
REACH = "import socket; socket.create_connection(('127.0.0.1', 9), 1)"


def namespaces() -> bool:
    return (
        bool(shutil.which("unshare"))
        and subprocess.run([*ALONE, "true"], check=False, capture_output=True).returncode == 0
    )


@pytest.mark.hostile
@pytest.mark.skipif(not namespaces(), reason="name spaces of networks are not allowed here")
def test_the_suite_needs_no_network(tmp_path):
    started = time.perf_counter()
    reached = subprocess.run(
        [*ALONE, sys.executable, "-c", REACH], capture_output=True, text=True, check=False
    )
    assert "Network is unreachable" in reached.stderr, "there is a network after all"
    report = tmp_path / "suite.xml"
    arguments = ["-q", "-n", "2", "--dist", "loadfile", "-p", "no:cacheprovider", "--junitxml", str(report)]
    chosen = os.environ.get("OFFLINE", "tests").split()
    done = subprocess.run(
        [*ALONE, sys.executable, "-m", "pytest", *arguments, *chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    counts = dict(
        re.findall(r'(tests|skipped|failures|errors)="(\d+)"', report.read_text(encoding="utf-8")[:500])
    )
    record(
        "R17",
        "the suite without a network",
        tests=int(counts["tests"]),
        failures=int(counts["failures"]) + int(counts["errors"]),
        skipped=int(counts["skipped"]),
        seconds=round(time.perf_counter() - started),
    )
