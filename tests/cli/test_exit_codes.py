"""How the command ends: exit code, what is on stdout, what is on stderr."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import HANGS
from pseudo_terminal import drawn_by
from running import gradience, python

import gradience as public
from gradience import errors
from gradience.cli import progress
from gradience.cli.app import run
from gradience.cli.console import show_note
from gradience.cli.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[2]

EXTRA_VERB = """
import sys, time
from gradience import errors
from gradience.cli import app
@app.app.command()
def extra() -> None:
    {body}
sys.argv = ["gradience", "extra"]
app.main()
"""


def extra_verb(body):
    """The real command line with one more verb that does `body`."""
    return python("-c", EXTRA_VERB.format(body=body))


ANY_VERB = pytest.mark.parametrize("arguments", [["--help"], ["schema", "audit"]], ids=" ".join)


def error_classes(base=errors.GradienceError):
    for cls in base.__subclasses__():
        yield cls
        yield from error_classes(cls)


def test_every_error_is_public_and_documented_once():
    page = (ROOT / "docs" / "reference" / "exit_codes.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `([A-Z]\w+)` \| (\d) \|", page, flags=re.MULTILINE)
    assert documented == sorted(documented, key=lambda row: row[1])
    assert sorted(documented) == sorted((cls.__name__, str(cls.exit_code)) for cls in error_classes())
    for name, _ in documented:
        assert getattr(public, name) is getattr(errors, name)
    raised = {int(code) for _, code in documented}
    assert raised == {code for code in ExitCode if ExitCode.DONE < code < ExitCode.INCONCLUSIVE}


@pytest.mark.parametrize("cls", list(error_classes()), ids=lambda cls: cls.__name__)
def test_every_error_ends_with_its_own_documented_code(cls, monkeypatch, command):
    def fails(**_):
        raise cls("adapter.bin: a pickle", code="c", hint="convert it")

    monkeypatch.setattr("gradience.cli.app._command", lambda _: fails)
    assert ExitCode(cls.exit_code) != 0
    assert command(code=cls.exit_code) == ("", "error: adapter.bin: a pickle\n\nhint: convert it\n")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--loud"], "No such option: --loud", "see gradience --help"),
        (["env", "--jsn"], "No such option: --jsn", "see gradience env --help"),
        (["audti"], "No such command 'audti'", "see gradience --help"),
        (["schema"], "Missing argument", "gradience schema [OPTIONS] ARTIFACT"),
        (["schema", "nonsense"], "nonsense", "see gradience schema --help"),
    ],
    ids=["option", "option-of-a-verb", "verb", "missing-argument", "bad-value"],
)
def test_a_wrong_command_line_says_where_the_right_one_is(arguments, message, hint, command):
    out, err = command(*arguments, code=ExitCode.USAGE)
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.endswith(f"\n\nhint: {hint}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@ANY_VERB
def test_a_full_disk_is_an_output_error(arguments):
    with open("/dev/full", "w") as full:
        done = gradience(*arguments, stdout=full)
    assert done.returncode == ExitCode.OUTPUT
    assert done.stderr == (
        "error: No space left on device\n\nhint: check the path, its permissions and the free space\n"
    )


def test_an_operating_system_error_names_its_file(tmp_path):
    done = extra_verb(f"open({str(tmp_path / 'absent' / 'file')!r})")
    assert done.returncode == ExitCode.OUTPUT
    assert done.stderr.startswith(f"error: {tmp_path}/absent/file: No such file or directory\n")


@ANY_VERB
def test_a_closed_pipe_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = gradience(*arguments, stdout=writer)
    os.close(writer)
    assert done.returncode == ExitCode.PIPE_CLOSED
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_ends_the_command_and_cleans_up(tmp_path, number, code):
    # Python starts with SIGINT ignored when its parent ignores it; the verb begins once the file is there.
    begun, cleaned = tmp_path / "begun", tmp_path / "cleaned"
    body = (
        f"\n    try:\n        open({str(begun)!r}, 'w').close(); time.sleep({HANGS})"
        f"\n    finally:\n        open({str(cleaned)!r}, 'w').close()"
    )
    restored = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    with subprocess.Popen(
        [sys.executable, "-c", restored + EXTRA_VERB.format(body=body)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        while not begun.exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=HANGS)
    assert (process.returncode, stdout, stderr) == (code, "", "")
    assert cleaned.exists()


@pytest.mark.parametrize(
    ("arguments", "resumes"),
    [
        (["shrink", "a", "-o", "my out"], True),
        (["bench", "run", "-c", "x", "-o", "y"], True),
        (["fleet", "zoo", "--output=rows.jsonl"], True),
        (["demo"], False),
        (["fleet", "zoo"], False),
        (["shrink", "a", "-o", "b", "--dry-run"], False),
        (["audit", "a"], False),
        ([], False),
    ],
)
@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_what_was_stopped_says_how_to_resume(monkeypatch, capsys, arguments, resumes, stop, code):
    def stopped(**_):
        raise stop

    monkeypatch.setattr("gradience.cli.app._command", lambda _: stopped)
    if isinstance(stop, SystemExit):
        with pytest.raises(SystemExit):
            run(arguments)
    else:
        assert run(arguments) == code
    command = shlex.join(["gradience", *arguments])
    line = f"\nstopped; to resume, run the same command again: {command}\n"
    assert capsys.readouterr().err == (line if resumes else "")


# --- names from strangers, color, narrow terminals -------------------------------------------------


def test_names_in_errors_cannot_steer_the_terminal():
    done = extra_verb(r"raise errors.InputError('a\x1b[2Jb\u202ec\nhint: run this', code='c', hint='x\x07y')")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "error: a\\x1b[2Jb\\u202ec\n       hint: run this\n\nhint: x\\x07y\n"


def test_too_little_memory_is_a_message_and_a_code():
    """1, that of a traceback, would say that a gate failed."""
    done = extra_verb("bytearray(2**62)")
    assert done.returncode == ExitCode.OUTPUT
    assert done.stderr == "error: not enough memory\n\nhint: free some, or use a machine with more\n"


# ---------------------------------------------------------------- How a command ends when nobody listens any


# A module that is imported early sends Ctrl-C to its own process: the moment is counted, not waited for.
IMPORTING = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["gradience", *{words!r}]
import runpy
runpy.run_module({program!r}, run_name="__main__", alter_sys=False)
"""


@pytest.mark.parametrize("module", ["typer", "gradience.cli.audit", "gradience.audit.adapter"])
@pytest.mark.parametrize("program", ["gradience", "gradience.bench.aggregate"])
def test_ctrl_c_during_an_import_has_no_traceback(module, program):
    done = python("-c", IMPORTING.format(module=module, program=program, words=["audit", "nowhere"]))
    if program == "gradience.bench.aggregate" and module != "typer":
        assert "Traceback" not in done.stderr  # which it never imports
    else:
        assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["shrink", "a", "-o", "out"], "gradience.shrink.search"),
        (["evaluate", "a", "-o", "out"], "gradience.evaluate.inputs"),
        (["fleet", "zoo", "-o", "rows.jsonl"], "gradience.fleet.verb"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_in_a_verb_says_how_to_resume(words, module):
    """A real Ctrl-C, when the verb imports `module`: typer turns it into an exit code, no exception."""
    done = python("-c", IMPORTING.format(module=module, program="gradience", words=words))
    line = f"\nstopped; to resume, run the same command again: gradience {' '.join(words)}\n"
    assert (done.returncode, done.stderr) == (130, line)


@pytest.mark.parametrize("words", ["--help", "env --json", "audit nowhere"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_silence(words, closed):
    command = f"{sys.executable} -m gradience {words} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=HANGS, check=False)
    assert done.returncode == (3 if words == "audit nowhere" else 0)
    assert b"Traceback" not in done.stderr


# ---------------------------------------------------------------- What a config or the environment of a


HOSTILE = "out\x1b[2J\x1b[31m\nverdict: PASS"


def test_a_note_on_a_stage_is_printed_visibly(capsys):
    progress.StageProgress().note(HOSTILE)
    said = capsys.readouterr().err
    assert "\\x1b[2J" in said
    assert "\x1b" not in said
    show_note(HOSTILE)
    assert capsys.readouterr().err == said, "notes look alike, wherever they come from"


# ---------------------------------------------------------------- The progress bar: only on a terminal, only


WORK = """
from gradience.cli import progress
progress.PATIENCE_SECONDS = {patience}
for label in {labels!r}:
    with progress.ProgressBar(label, quiet={quiet}) as bar:
        for done in range(1, 8):
            bar(done, 7)
print("result")
"""


def on_a_terminal(*labels, patience=0, quiet=False):
    """What a process writes to stderr when that is a terminal."""
    code = WORK.format(patience=patience, labels=labels, quiet=quiet)
    drawn, piped = drawn_by([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert piped == b"result\n"
    return drawn


def test_it_shows_how_far_it_is_and_removes_itself():
    drawn = on_a_terminal("checkpoint-200")
    assert "checkpoint-200" in drawn
    assert "7/7" in drawn
    assert drawn.rstrip("\r\n").endswith("\x1b[2K")  # the line is erased


@pytest.mark.parametrize(("patience", "quiet"), [(10**6, False), (0, True)], ids=["short-work", "quiet"])
def test_it_is_silent_where_it_should_be(patience, quiet):
    assert on_a_terminal("x", patience=patience, quiet=quiet) == ""


@pytest.mark.parametrize(
    ("quiet", "seconds", "lines"),
    [(False, 30.0, []), (False, 0.0, [f"{done} of 7" for done in range(1, 7)]), (True, 0.0, [])],
    ids=["short-work", "long-work", "quiet"],
)
def test_without_a_terminal_it_prints_plain_lines_while_the_work_is_long(
    quiet, seconds, lines, monkeypatch, capsys
):
    monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
    with progress.ProgressBar("x", quiet=quiet) as bar:
        for done in range(1, 8):
            bar(done, 7)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(": ")[1].split(",")[0] for line in shown.err.splitlines()] == lines
    assert "\x1b" not in shown.err


def test_a_label_is_text():
    labels = ("[bold]x[/]", "a[/]b", "{task.id}", "{", "a\x1b[2Jb", "a\nb", "x" * 500)
    drawn = on_a_terminal(*labels)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
    assert "\x1b[2J" not in drawn
    assert [
        each for each in labels if each[:10].replace("\x1b", "\\x1b").replace("\n", "\\x0a") not in plain
    ] == []


def test_a_stage_says_how_fast_it_is_and_what_is_left(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 10.0, *(second for n in range(1, 8) for second in [10.0 + 12 * n] * 2)])
    last = [0.0]

    def now():
        last[0] = next(clock, last[0])
        return last[0]

    monkeypatch.setattr(progress.time, "monotonic", now)
    with progress.StageProgress() as watcher:
        watcher.stage("mine/eval", 1, 3)
        for batch in range(3, 9):  # what was there from a run that was interrupted has no pace
            watcher.step(batch, 10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["0:10", "stage", "1", "of", "3:", "evaluating", "mine"]
    assert len(lines) > 1
    for line in lines[1:]:
        done = int(line.split()[1])
        minutes, seconds = map(int, line.split()[0].split(":"))
        passed = 60 * minutes + seconds - 10
        left = (passed - 12) / (done - 3) * (10 - done)  # the first sign, 3, came after 12 seconds
        assert f"{done} of 10, about {left:.0f} s left" in line
