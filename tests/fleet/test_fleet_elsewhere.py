"""A fleet measured by commands on an executor: the rows of the same adapters measured here."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from fleets import random_factors, save

from gradience import audit_fleet
from gradience.cli.app import run
from gradience.errors import OutputError, UsageError
from gradience.executors.measuring import OnExecutor


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Four adapters, one of which no list can name, and one that cannot be measured."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a", "b b", "deep/c", "line\nbreak"]):
        save(tmp_path / "zoo" / name, random_factors(number, 4))
    broken = save(tmp_path / "zoo" / "broken", random_factors(9, 4))
    (broken / "adapter_model.safetensors").write_bytes(b"nothing")
    return tmp_path


def rows_of(name, **options):
    """How many were measured, and their rows but for messages, which name no folder where a path was a whole one."""
    report = audit_fleet("zoo", name, recursive=True, **options)
    rows = map(json.loads, Path(name).read_text().splitlines())
    return report.measured, [row | {"message": None} for row in rows]


def test_rows_are_those_that_are_measured_here(here):
    elsewhere = OnExecutor("local", 2, here / "parts")
    assert rows_of("there.jsonl", measure=elsewhere) == rows_of("here.jsonl")
    assert not (here / "parts").exists()


def test_what_is_killed_is_tried_again(here, monkeypatch):
    elsewhere = OnExecutor("local", 1, here / "parts")
    killer = threading.Thread(target=kill_the_first_command)
    killer.start()
    assert rows_of("there.jsonl", measure=elsewhere) == rows_of("here.jsonl")
    killer.join()
    assert sum(elsewhere.attempts.values()) == 1


def kill_the_first_command():
    """SIGKILL to the first child that measures a part."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = status.read_bytes().split(b"\0")
                parent = (status.parent / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:  # it has ended
                continue
            if b"fleet" in words and b"gradience" in words and int(parent) == os.getpid():
                os.kill(int(status.parent.name), signal.SIGKILL)
                return
        time.sleep(0.01)


def test_a_part_that_fails_says_where_to_look(here, monkeypatch):
    elsewhere = OnExecutor("local", 1, here / "parts", root=here / "elsewhere")
    with pytest.raises(OutputError, match="ended with 2") as caught:
        rows_of("there.jsonl", measure=elsewhere)
    assert caught.value.code == "part-failed"
    assert "not below" in (here / "parts" / "0.log").read_text()


def make_notes(parts):
    parts.mkdir()
    (parts / "notes").write_bytes(b"theirs")


def make_link(parts):
    (parts.parent / "outside").mkdir()
    parts.symlink_to("outside")


@pytest.mark.parametrize("make", [make_notes, make_link])
def test_a_folder_that_no_part_wrote_stays(here, make):
    make(here / "parts")
    with pytest.raises(UsageError, match="not a folder that only parts of a fleet wrote"):
        rows_of("there.jsonl", measure=OnExecutor("local", 2, here / "parts"))
    assert [path.name for path in (here / "parts").iterdir()] == ["notes"] * (make is make_notes)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--executor", "rya", "-o", "x.jsonl"], "did you mean `ray`?"),
        (["--executor", "local", "-o", "x.jsonl"], "one of: ray"),
        (["--executor", "ray"], "needs --output"),
    ],
)
def test_what_is_refused(here, words, says, capsys):
    assert run(["fleet", "zoo", *words]) == 2
    assert says in capsys.readouterr().err
