"""The loops of examples/ run, and monitor reads what they write. The README's callback runs too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gradience.monitor import monitor_runs

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["plain_loop", "accelerate_loop", pytest.param("lightning_loop", marks=pytest.mark.conformance)]
)
def test_an_example_writes_what_monitor_reads(tmp_path, name):
    script = ROOT / "examples" / f"{name}.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = monitor_runs([tmp_path / "run.jsonl"]).runs[0]
    assert run.outcome == "ok"
    assert run.loss.last < run.loss.first
    assert run.rank_use.modules == 2
    assert len(run.rank_use.points) >= 5
