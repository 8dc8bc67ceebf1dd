"""How a command ends when nobody listens any more: quietly, with the code that a shell expects."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from killing import HANGS

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
    code = IMPORTING.format(module=module, program=program, words=["audit", "nowhere"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANGS, check=False)
    if program == "gradience.bench.aggregate" and module != "typer":
        assert b"Traceback" not in done.stderr  # which it never imports
    else:
        assert (done.returncode, done.stderr) == (128 + signal.SIGINT, b"")


@pytest.mark.parametrize(
    ("words", "module"),
    [
        (["shrink", "a", "-o", "out"], "gradience.shrink.plan"),
        (["evaluate", "a", "-o", "out"], "gradience.evaluate.inputs"),
        (["fleet", "zoo", "-o", "rows.jsonl"], "gradience.fleet.verb"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_in_a_verb_says_how_to_resume(words, module):
    """A real Ctrl-C, when the verb imports `module`: typer turns it into an exit code, no exception."""
    code = IMPORTING.format(module=module, program="gradience", words=words)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANGS, check=False)
    assert done.returncode == 130
    line = f"\nstopped; to resume, run the same command again: gradience {' '.join(words)}\n"
    assert done.stderr.decode() == line


@pytest.mark.parametrize(
    "words", [["--help"], ["env"], ["env", "--json"], ["schema", "audit"], ["audit", "nowhere"]]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_silence(words, closed):
    command = f"{sys.executable} -m gradience {' '.join(words)} {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=HANGS, check=False)
    assert done.returncode == (3 if words[0] == "audit" else 0)
    assert b"Traceback" not in done.stderr
