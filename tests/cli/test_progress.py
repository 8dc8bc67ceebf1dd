"""The progress bar: only on a terminal, only after a second, and gone at the end."""

import re
import subprocess
import sys

import pytest
from killing import HANGS
from pseudo_terminal import drawn_by

WORK = """
from gradience.cli import progress
progress.PATIENCE_SECONDS = {patience}
with progress.ProgressBar({label!r}, quiet={quiet}) as bar:
    for done in range(1, 8):
        bar(done, 7)
print("result")
"""


def on_a_terminal(code):
    """What a process writes to stderr when that is a terminal."""
    drawn, piped = drawn_by([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert piped == b"result\n"
    return drawn


def test_it_shows_how_far_it_is_and_removes_itself():
    drawn = on_a_terminal(WORK.format(patience=0, label="checkpoint-200", quiet=False))
    assert "checkpoint-200" in drawn
    assert "7/7" in drawn
    assert drawn.rstrip("\r\n").endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(("patience", "quiet"), [(10**6, False), (0, True)], ids=["short-work", "quiet"])
def test_it_is_silent_where_it_should_be(patience, quiet):
    assert on_a_terminal(WORK.format(patience=patience, label="x", quiet=quiet)) == ""


@pytest.mark.parametrize(
    ("quiet", "seconds", "lines"),
    [(False, 30.0, []), (False, 0.0, [f"{done} of 7" for done in range(1, 7)]), (True, 0.0, [])],
    ids=["short-work", "long-work", "quiet"],
)
def test_without_a_terminal_it_prints_plain_lines_while_the_work_is_long(quiet, seconds, lines):
    code = WORK.format(patience=0, label="x", quiet=quiet)
    code = code.replace("\nwith", f"\nprogress.LINE_SECONDS = {seconds}\nwith", 1)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=True
    )
    assert done.stdout == "result\n"
    assert [line.split(": ")[1].split(",")[0] for line in done.stderr.splitlines()] == lines
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("label", ["[bold]x[/]", "a[/]b", "{task.id}", "{", "a\x1b[2Jb", "a\nb", "x" * 500])
def test_a_label_is_text(label):
    drawn = on_a_terminal(WORK.format(patience=0, label=label, quiet=False))
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "\x1b[2J" not in drawn
    assert label[:10].replace("\x1b", "\\x1b").replace("\n", "\\x0a") in plain


def test_a_stage_says_how_fast_it_is_and_what_is_left(monkeypatch, capsys):
    from gradience.cli import progress

    clock = iter([0.0, 10.0, 10.0, *(second for n in range(1, 8) for second in [10.0 + 12 * n] * 2)])
    last = [0.0]

    def now():
        last[0] = next(clock, last[0])
        return last[0]

    monkeypatch.setattr(progress.time, "monotonic", now)
    with progress.StageProgress() as watcher:
        watcher.stage("mine/eval", 1, 3)
        for batch in range(3, 9):  # what was there from a run that was interrupted has no pace
            watcher.tokens(600)
            watcher.step(batch, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["0:10", "stage", "1", "of", "3:", "evaluating", "mine"]
    assert len(lines) > 1
    for line in lines[1:]:
        done = int(line.split()[1])
        minutes, seconds = map(int, line.split()[0].split(":"))
        passed = 60 * minutes + seconds - 10
        left = (passed - 12) / (done - 3) * (10 - done)  # the first sign, 3, came after 12 seconds
        assert f"{done} of 10, {600 * (done - 2) / passed:,.0f} tokens/s, about {left:.0f} s left" in line
