"""What a config or the environment of a stranger says cannot steer the terminal, nor pose as a line of ours."""

from __future__ import annotations

import shutil

import pytest

from gradience.cli.app import run
from gradience.cli.console import show_note
from gradience.cli.demo import example_adapter
from gradience.cli.progress import StageProgress

HOSTILE = "out\x1b[2J\x1b[31m\nverdict: PASS"


def test_a_note_on_a_stage_is_printed_visibly(capsys):
    StageProgress().note(HOSTILE)
    said = capsys.readouterr().err
    assert "\\x1b[2J" in said
    assert "\x1b" not in said
    show_note(HOSTILE)
    assert capsys.readouterr().err == said, "notes look alike, wherever they come from"


@pytest.mark.parametrize("verb", ["init", "card", "plot"])
def test_what_was_written_is_printed_visibly(verb, tmp_path, capsys):
    folder = tmp_path / HOSTILE
    shutil.copytree(example_adapter(), folder)
    words = {
        "init": ["-o", str(folder / "e.yaml")],
        "card": [str(folder)],
        "plot": ["energy", str(folder), "-o", str(folder / "e.svg")],
    }[verb]
    assert run([verb, *words]) == 0
    said = capsys.readouterr()
    (line,) = (line for line in said.err.splitlines() if line.startswith("written: "))
    assert "out\\x1b[2J\\x1b[31m\\x0averdict: PASS" in line
    assert "\x1b" not in said.out + said.err
    assert not any(line.startswith("verdict") for line in (said.out + said.err).splitlines())
