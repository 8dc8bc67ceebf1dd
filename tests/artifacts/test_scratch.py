"""Whole files: killed at every moment of writing, the old or the new one is there, and the next writer tidies up."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from killing import program

from gradience.errors import OutputError
from gradience.files.scratch import (
    scratch_beside,
    scratch_file,
    scratch_folder,
    sweep_below,
    sweep_beside,
)
from gradience.files.whole import write_whole


@pytest.mark.parametrize(("kind", "least"), [("file", 40), ("folder", 80)])
def test_killed_at_every_moment_of_writing(kind, least, tmp_path):
    script = Path(__file__).with_name("kill_files.py")
    moments, left = map(int, program(script, tmp_path, kind).split())
    assert moments >= least
    assert left >= 10  # or this test would never have seen anything to sweep


def abandoned_file(path: Path) -> Path:
    scratch = scratch_beside(path)
    scratch.write_bytes(b"half")
    return scratch


def test_what_a_living_writer_holds_is_left_alone(tmp_path):
    path = tmp_path / "a.json"
    with scratch_file(path) as (held, _), scratch_folder(path) as held_too:
        abandoned_file(path)
        write_whole(path, [b"mine"])
        sweep_below(tmp_path)
        assert set(tmp_path.iterdir()) == {path, held, held_too}
    assert list(tmp_path.iterdir()) == [path]


def test_what_others_name_otherwise_is_left_alone(tmp_path):
    path = tmp_path / "a.json"
    others = [".a.json.tmp", ".a.json.0123.tmp", "a.json.01234567.tmp", ".b.json.01234567.tmp", ".a.json.swp"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ".a.json.89abcdef.tmp").symlink_to(tmp_path / "a.json.01234567.tmp")
    sweep_beside(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*others, ".a.json.89abcdef.tmp"])


def test_below_a_folder_everything_abandoned_goes(tmp_path):
    deep = tmp_path / "stage" / "checkpoints"
    deep.mkdir(parents=True)
    abandoned_file(deep / "complete")
    folder = scratch_beside(tmp_path / "stage" / "adapter")
    folder.mkdir()
    (folder / "weights").write_bytes(b"half")
    (deep / "kept").write_bytes(b"")
    sweep_below(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["checkpoints", "kept", "stage"]


def test_many_writers_of_one_file_at_once(tmp_path):
    """Each sweeps before it writes: none may take another's file for abandoned."""
    path, failures = tmp_path / "a.json", []

    def work(text: bytes) -> None:
        for _ in range(100):
            try:
                write_whole(path, [text])
            except OutputError as error:
                failures.append(error)

    threads = [threading.Thread(target=work, args=(bytes([65 + place]) * 9,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(path.read_bytes())) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_swept_between_its_making_and_its_opening_is_made_again(tmp_path, monkeypatch):
    """Another writer of the same begins at that moment, and finds a folder that nobody has locked yet."""
    opened, names = os.open, []

    def swept(name, *more, **options):
        names.append(name)
        if len(names) == 1:
            sweep_below(tmp_path)
        return opened(name, *more, **options)

    monkeypatch.setattr("os.open", swept)
    with scratch_folder(tmp_path / "out") as scratch:
        assert scratch.is_dir()
    assert names[0] != scratch
    assert list(tmp_path.iterdir()) == []
