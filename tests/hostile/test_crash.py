"""Every system call that writes, killed once and failed five ways: old or new in full, then all is well (R5, R7)."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from hostile.crash import ERRORS, KILL
from hostile.crashing import answer_of
from hostile.figures import record
from hostile.syscalls import strace_works
from hostile.writers import LONG, WRITERS

with_strace = pytest.mark.skipif(not strace_works(), reason="strace is not installed, or may not trace here")
MOUNTING = ("unshare", "--map-root-user", "--mount")


def figures(answer):
    tally = answer["tally"]
    return {
        "kinds of writing": sum(name.endswith(", calls") for name in tally),
        "calls": sum(count for name, count in tally.items() if name.endswith(", calls")),
        "runs": sum(count for name, count in tally.items() if "=" in name),
        "seconds": round(answer["seconds"]),
    }


def may_mount():
    """Whether a process may have a file system of its own here."""
    command = [*MOUNTING, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and not subprocess.run(command, capture_output=True).returncode


@with_strace
def test_a_sample_of_the_calls(tmp_path):
    answer = answer_of("crash", tmp_path, "--share", 24, "--how", KILL, *ERRORS)
    assert answer["problems"] == []
    assert figures(answer)["runs"] > 8


@pytest.mark.hostile
@with_strace
def test_killed_at_every_call(tmp_path):
    names = [writer.name for writer in (*WRITERS, LONG)]
    answer = answer_of("crash", tmp_path, "--writers", *names, "--how", KILL)
    assert answer["problems"] == []
    assert figures(answer)["calls"] >= 500
    record("R5", "killed at every call that writes", **figures(answer))


@pytest.mark.hostile
@with_strace
def test_every_call_fails_in_five_ways(tmp_path):
    answer = answer_of("crash", tmp_path, "--how", *ERRORS)
    assert answer["problems"] == []
    assert figures(answer)["runs"] > 1400
    record("R7", "disk and permissions refuse every call that writes", **figures(answer))


@pytest.mark.hostile
@with_strace
def test_a_training_killed_and_refused_at_a_third_of_its_calls(tmp_path):
    """A killed one ends with the adapter and the loss of one that was left alone (R10)."""
    answer = answer_of("crash", tmp_path, "--writers", "training", "--share", 3, "--how", KILL, KILL, *ERRORS)
    assert answer["problems"] == []
    assert figures(answer)["runs"] > 40
    record("R5", "a training killed or refused at a third of its calls", **figures(answer))


@pytest.mark.hostile
@with_strace
@pytest.mark.skipif(not may_mount(), reason="may not mount a file system here")
def test_a_file_system_that_is_full(tmp_path):
    answer = answer_of("full_disk", tmp_path, inside=MOUNTING)
    assert answer["problems"] == []
    assert len(answer["tally"]) > 8
    runs = sum(answer["tally"].values())
    record("R7", "a full tmpfs, from no page left to enough", runs=runs, seconds=round(answer["seconds"]))
