"""Output of programs on a pseudo-terminal. The tests that use it are skipped on systems without one."""

import os
import subprocess

import pytest
from killing import HANGS

TERM = {"TERM": "xterm-256color"}


def opened(columns=80, rows=50):
    """(master, slave) of a terminal of this size."""
    pty = pytest.importorskip("pty", reason="pseudo-terminals are a matter of Unix")
    termios = pytest.importorskip("termios", reason="pseudo-terminals are a matter of Unix")
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (rows, columns))
    return master, slave


def drawn_by(command, *, columns=80, stdout=None):
    """(what `command` drew, what it wrote to the pipe `stdout`), once it has ended with 0; by default it draws both."""
    master, slave = opened(columns)
    process = subprocess.Popen(command, stdout=stdout or slave, stderr=slave, env={**os.environ, **TERM})
    os.close(slave)
    output = b""
    while chunk := read(master):
        output += chunk
    os.close(master)
    piped = process.communicate(timeout=HANGS)[0]
    assert process.returncode == 0, output
    return output.decode(), piped


def read(master):
    """The next bytes that a program drew; none once it has ended."""
    try:
        return os.read(master, 65536)
    except OSError:  # Linux reports the closed end of a pseudo-terminal like this
        return b""
