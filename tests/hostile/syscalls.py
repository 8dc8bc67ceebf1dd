"""System calls that write, found and failed one at a time: by strace, attached to a forked child.

The kernel counts, so what is killed is killed before the call it is at, whatever library makes it: Python, Rust or C.
"""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import NamedTuple

from killing import HANGS, WRITING, each_moment, watched

Work = Callable[[], "int | None"]

CALLS = (
    *(
        "openat",
        "write",
        "pwrite64",
        "writev",
        "fsync",
        "fdatasync",
        "ftruncate",
        "truncate",
        "copy_file_range",
    ),
    *(
        "rename",
        "renameat",
        "renameat2",
        "link",
        "symlink",
        "unlink",
        "unlinkat",
        "mkdir",
        "mkdirat",
        "rmdir",
    ),
    *("chmod", "fchmod", "fchmodat", "utimensat", "sendfile"),
)
"""What may change a folder; of the openings those that write are chosen."""
_LINE = re.compile(r"([a-z0-9_]+)\((.*)")
_OPENS_TO_WRITE = re.compile(r"O_WRONLY|O_RDWR|O_CREAT")


class Call(NamedTuple):
    """The `number`-th call of its name in a process, from 1."""

    name: str
    number: int
    text: str
    """As strace prints it, for a message."""


class Ending(NamedTuple):
    """How a child ended, and what it said."""

    code: int
    said: str


def strace_works() -> bool:
    """Whether strace is here and may look into a child: containers and hardened kernels can forbid it."""
    return bool(shutil.which("strace")) and not subprocess.run(
        ["strace", "-qq", "-o", os.devnull, "true"], capture_output=True, check=False
    ).returncode  # fmt: skip


def writing_calls(work: Work, folder: Path, log: Path) -> list[Call]:
    """Every call of `work` that changes something below `folder`, in order. It must end well."""
    ending = _under_strace(work, ["-y", "-s", "0", "-e", f"trace={','.join(CALLS)}"], log)
    assert ending.code in (0, None), ending.said
    counts: dict[str, int] = {}
    calls = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := _LINE.match(line):
            name, rest = match[1], match[2]
            counts[name] = counts.get(name, 0) + 1
            if str(folder) in rest and (name != "openat" or _OPENS_TO_WRITE.search(rest)):
                calls.append(Call(name, counts[name], line.replace(str(folder), "")[:160]))
    return calls


def failing(work: Work, call: Call, how: str) -> Ending:
    """What becomes of `work` when this call of it fails. how: `signal=KILL`, `error=ENOSPC` …"""
    inject = f"inject={call.name}:{how}:when={call.number}"
    return _under_strace(work, ["-e", f"trace={call.name}", "-e", inject], Path(os.devnull))


def loaded(work: Work) -> None:
    """Do it here once, so that whatever it loads is there in every child."""
    with redirect_stdout(sys.stderr):
        assert work() in (0, None)


def undisturbed(work: Work) -> Ending:
    """The same in a child that nobody looks into."""
    return begun(work)()


MOMENTS = watched(
    *("compress/adapter.py", "compress/carry.py", "adapters/tensors.py"),
    *(
        "evaluate/records.py",
        "files/records.py",
        "telemetry/writer.py",
        "bench/run/stages.py",
        "reports/training.py",
    ),
    *WRITING,
)
"""Files of the package in whose code moments are counted."""


def signaled(work: Work, moment: int, number: int) -> Work:
    """Return the same work, which receives this signal at this moment."""

    def send(now: int) -> None:
        if now == moment:
            os.kill(os.getpid(), number)

    def working() -> int | None:
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell lets jobs in the background ignore it
        each_moment(MOMENTS, send)
        try:
            return work()
        finally:
            sys.setprofile(None)

    return working


def limited(work: Work, size: int) -> Work:
    """Return the same work with a limit on the size of files."""

    def working() -> int | None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return work()

    return working


class Begun(NamedTuple):
    """A child at work; called, it waits for the end."""

    child: int
    reader: int

    def __call__(self) -> Ending:
        return _ended(self.reader, self.child)


def begun(work: Work) -> Begun:
    """Begin it in a child."""
    reader, child = _forked(work, wait=False)
    return Begun(child, reader)


def _under_strace(work: Work, options: list[str], log: Path) -> Ending:
    reader, child = _forked(work, wait=True)
    os.waitpid(child, os.WUNTRACED)
    tracer = subprocess.Popen(["strace", "-qqq", "-o", str(log), *options, "-p", str(child)])
    status = Path(f"/proc/{child}/status")
    while "TracerPid:\t0\n" in status.read_text():
        assert tracer.poll() is None, "strace cannot attach"
        time.sleep(0.001)
    os.kill(child, signal.SIGCONT)
    ending = _ended(reader, child)
    tracer.wait(timeout=HANGS)
    return ending


def _forked(work: Work, *, wait: bool) -> tuple[int, int]:
    """A child that does `work`, its stdout away and its stderr to be read; it waits for SIGCONT first if told."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child:
        os.close(writer)
        return reader, child
    try:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writer, 2)
        if wait:
            os.kill(os.getpid(), signal.SIGSTOP)
        code = work() or 0
    except BaseException:  # noqa: BLE001  (a child never returns into its parent's code)
        traceback.print_exc()
        code = 70
    sys.stderr.flush()
    os._exit(int(code))


def _ended(reader: int, child: int) -> Ending:
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    return Ending(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)
