"""Mutants of our own numeric core: a test notices them (R13)."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time

import pytest
from killing import HANGS

from hostile.attacking import environment
from hostile.figures import record
from hostile.mutation import CORES, mutants

COUNT = int(os.environ.get("MUTANTS", "16"))
"""Of each module, drawn; all of them take hours."""
NOTICED = 0.85

SOURCE = '''
def smaller(a, b=2):
    """Docstring 1."""
    if a < b and not b:
        return -min(a, b) + 1
    raise ValueError(f"{a + 1}")
'''


def test_what_is_exchanged():
    sources = [ast.unparse(mutant.tree) for mutant in mutants(SOURCE)]
    assert len(sources) == len(set(sources)) == 9
    assert all("Docstring 1." in source and "{a + 1}" in source for source in sources)
    assert any("a <= b" in source for source in sources)
    assert any("max(a, b)" in source for source in sources)


@pytest.mark.hostile
@pytest.mark.parametrize("core", CORES)
def test_mutants_of_our_own_code_are_noticed(core):
    started = time.perf_counter()
    command = [sys.executable, "-m", "hostile.mutation", "--core", core, "--count", str(COUNT)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)[core]
    survivors = result["survivors"]
    assert len(survivors) <= (1 - NOTICED) * result["tried"] + 1, survivors
    record(
        "R13",
        f"mutants of {CORES[core].module}",
        mutants=result["mutants"],
        tried=result["tried"],
        survived=len(survivors),
        survivors=survivors,
        seconds=round(time.perf_counter() - started),
    )
