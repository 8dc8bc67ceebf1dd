"""Every system call that writes, killed once and failed five ways: old or new in full, then all is well (R5, R7)."""

from __future__ import annotations

import pytest

from hostile.crash import ERRORS, KILL
from hostile.crashing import answer_of
from hostile.figures import record
from hostile.syscalls import strace_works

pytestmark = pytest.mark.skipif(not strace_works(), reason="strace is not installed, or may not trace here")


def figures(answer):
    tally = answer["tally"]
    return {
        "kinds of writing": sum(name.endswith(", calls") for name in tally),
        "calls": sum(count for name, count in tally.items() if name.endswith(", calls")),
        "runs": sum(count for name, count in tally.items() if "=" in name),
        "seconds": round(answer["seconds"]),
    }


def test_a_sample_of_the_calls(tmp_path):
    answer = answer_of("crash", tmp_path, "--share", 24, "--how", KILL, *ERRORS)
    assert answer["problems"] == []
    assert figures(answer)["runs"] > 8


@pytest.mark.hostile
def test_killed_at_every_call(tmp_path):
    answer = answer_of("crash", tmp_path, "--how", KILL)
    assert answer["problems"] == []
    assert figures(answer)["calls"] > 280
    record("R5", "killed at every call that writes", **figures(answer))


@pytest.mark.hostile
def test_every_call_fails_in_five_ways(tmp_path):
    answer = answer_of("crash", tmp_path, "--how", *ERRORS)
    assert answer["problems"] == []
    assert figures(answer)["runs"] > 1400
    record("R7", "disk and permissions refuse every call that writes", **figures(answer))
