"""Malformed files x the verbs that read them: a documented code, one message, nothing executed, bounded (R1, R2)."""

from __future__ import annotations

import pytest

from hostile.attack import MUTATED
from hostile.attacking import attacked
from hostile.figures import record

MB = 1_000_000


def figures(tally):
    return {
        "inputs": tally["inputs"],
        "runs": tally["runs"],
        "kinds of file": tally["kinds"],
        "slowest, seconds": round(tally["slowest"], 2),
        "largest, MB": round(tally["peak_bytes"] / MB),
        "processor, seconds": round(tally["cpu_seconds"]),
        "seconds": round(tally["seconds"]),
    }


@pytest.mark.slow
def test_a_sample_of_the_malformed_files(tmp_path):
    tally = attacked(tmp_path, "--share", 113)
    assert tally["problems"] == []
    assert tally["runs"] > 200
    assert tally["kinds"] > 28


@pytest.mark.hostile
def test_every_kind_of_malformed_file(tmp_path):
    tally = attacked(tmp_path, "--share", 11, parts=2)
    assert tally["problems"] == []
    assert tally["inputs"] > 1500
    record("R1", "malformed files", **figures(tally))


@pytest.mark.hostile
@pytest.mark.parametrize("kind", MUTATED)
def test_mutants_of_texts(kind, tmp_path):
    tally = attacked(tmp_path, "--mutants", 500, "--kind", kind, parts=2)
    assert tally["problems"] == []
    assert tally["inputs"] == 500 * MUTATED[kind]
    record("R2", f"mutants of {kind}", **figures(tally))
