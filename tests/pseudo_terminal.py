"""Output of programs on a pseudo-terminal. The tests that use it are skipped on systems without one."""

from __future__ import annotations

import codecs
import os
import subprocess
from contextlib import contextmanager, suppress

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


class Drawing:
    """A program that draws on a terminal. `terminal` shows its screen so far; `drawn` is all its output."""

    def __init__(self, command, terminal, rows, columns, environment):
        import fcntl
        import termios

        self.master, slave = opened(columns, rows)
        self.terminal, self.drawn = terminal, ""
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        of_tests = ("COLUMNS", "LINES", "NO_COLOR")
        kept = {name: value for name, value in os.environ.items() if name not in of_tests}
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**kept, **TERM, "PYTHONIOENCODING": "utf-8", **environment},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)

    def until(self, condition=lambda: False):
        """Take in what is written until the condition holds, or to the end of the program."""
        while not condition():
            data = read(self.master)
            if not data:
                self.process.wait(HANGS)
                return
            text = self.decoder.decode(data)
            self.drawn += text
            self.terminal.feed(text)

    def press(self, key):
        """Type it."""
        os.write(self.master, key)

    def resize(self, rows, columns):
        """Change the size, from the program's next query of it."""
        import termios

        self.terminal.rows = max(self.terminal.rows, rows)  # what is being drawn still has the size before
        termios.tcsetwinsize(self.master, (rows, columns))


@contextmanager
def drawing(command, terminal, *, rows, columns, **environment):
    """A program on a terminal of its own, where Ctrl-C reaches it; it is ended with the block."""
    one = Drawing(command, terminal, rows, columns, environment)
    try:
        yield one
    finally:
        with suppress(ProcessLookupError):
            one.process.kill()
        one.process.wait()
        os.close(one.master)
