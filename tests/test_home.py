"""The suite leaves the home of whoever runs it alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WRITERS = (
    "tests/report/test_plots.py",  # matplotlib's fonts
    "tests/verification/test_verified_results.py",  # torch and PEFT, and a run with its ledger
)


@pytest.mark.slow
def test_tests_that_cache_something_write_nothing_to_the_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    names = "every_plot_has or untouched"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", names, *WRITERS],
        cwd=ROOT, env={**os.environ, "HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert [*home.rglob("*")] == []
