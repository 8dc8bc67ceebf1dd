"""Parsers that a stranger can reach: what the fuzzer begins with and once found, and a fixed number of mutants (R3)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from killing import HANGS

from hostile.attacking import environment
from hostile.figures import record
from hostile.fuzzed import CORPUS, KEPT_BYTES, TARGETS, feed, seeds

SECONDS = 15
"""For each target; `make fuzz` takes minutes."""


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_of_a_target_ends_well(target):
    corpus = seeds(target)
    taken = [feed(target, content) for content in corpus.values()]
    assert any(taken) or target in ("shards", "bench"), "nothing is good: the fuzzer would stay at the door"
    assert max(map(len, corpus.values())) <= KEPT_BYTES


def test_every_folder_of_the_corpus_has_a_target():
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.hostile
def test_mutants_of_the_corpus_end_well(tmp_path):
    command = [sys.executable, "-m", "hostile.fuzz", "--seconds", str(SECONDS), "--finds", str(tmp_path)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)
    assert results.keys() == TARGETS.keys()
    inputs = sum(result["inputs"] for result in results.values())
    record("R3", "parsers fed", targets=len(results), inputs=inputs, seconds=SECONDS * len(results))
