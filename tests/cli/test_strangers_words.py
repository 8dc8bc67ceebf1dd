"""What a config or the environment of a stranger says cannot steer the terminal, nor pose as a line of ours."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gradience.bench.config.shipped import find_config
from gradience.cli.app import run
from gradience.cli.console import show_note, show_written
from gradience.cli.demo import example_adapter
from gradience.cli.progress import StageProgress

HOSTILE = "out\x1b[2J\x1b[31m\nverdict: PASS"


def test_an_unknown_key_of_a_config_is_printed_visibly(tmp_path, capsys):
    config = Path(find_config("minilm_reviews_demo")).read_text(encoding="utf-8")
    hostile = tmp_path / "hostile.yaml"
    setting = 'train:\n  "out\\e[2J\\e[31mPASS\\nverdict: PASS": 1\n'
    hostile.write_text(config.replace("train:\n", setting, 1), encoding="utf-8")
    run(["bench", "run", "--config", str(hostile)])
    said = capsys.readouterr().err
    assert "unknown key" in said
    assert "\\x1b[2J" in said
    assert "\x1b" not in said
    assert "verdict: PASS" not in said.splitlines()


def test_the_environment_is_printed_visibly(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1\x1b[31mX")
    run(["env"])
    out = capsys.readouterr().out
    assert "OMP_NUM_THREADS=1\\x1b[31mX" in out
    assert "\x1b" not in out


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
        "init": ["evaluate", "-o", str(folder / "e.yaml")],
        "card": [str(folder)],
        "plot": ["energy", str(folder), "-o", str(folder / "e.svg")],
    }[verb]
    assert run([verb, *words]) == 0
    said = capsys.readouterr()
    (line,) = (line for line in said.err.splitlines() if line.startswith("written: "))
    assert "out\\x1b[2J\\x1b[31m\\x0averdict: PASS" in line
    assert "\x1b" not in said.out + said.err
    assert not any(line.startswith("verdict") for line in (said.out + said.err).splitlines())


def test_every_verb_says_so_through_one_function(capsys):
    """`distill`, `calibrate`, `evaluate`, `shrink` and Bench need a model to get there."""
    cli = Path(run.__code__.co_filename).parent
    assert [path.name for path in cli.glob("*.py") if 'print(f"written: ' in path.read_text()] == []
    show_written(HOSTILE)
    assert capsys.readouterr().err == "written: out\\x1b[2J\\x1b[31m\\x0averdict: PASS\n"
