"""A piece of work in a forked child that may write one folder, start nothing, and use so much time and memory.

The parent imports once and forks for every case, so a thousand cases cost as many forks. What the child tries beside
its work is seen by an audit hook, which cannot be taken off again.
"""

import gc
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gradience.cli.console import show_error
from gradience.errors import GradienceError

CPU_SECONDS = 5
WALL_SECONDS = 180
"""For what blocks without computing: a pipe that nobody writes. Generous: on a busy machine 5 s of processor time are
minutes."""
ADDRESS_SPACE = 3 * 2**30
"""Beyond what the parent has mapped: the machine survives what the harness is there to find."""
TRIED = 97
"""Exit status of a child that tried what it may not; on the pipe it says what."""

STARTS = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.", "socket.")
RUNS_CODE = ("pickle.find_class", "ctypes.dlopen", "code.__new__")
CHANGES = {
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
}
"""Events that change the file system, and which of their arguments are a path and the folder that it is relative to."""
NAMES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
"""Of these, the events that change a name in a folder: a link there is not followed."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a child ended."""

    code: int
    """Exit code; negative: the signal that ended it."""
    stdout: bytes
    stderr: bytes
    cpu_seconds: float
    peak_bytes: int
    had_bytes: int
    """Memory of the parent when it forked, which the child shares: part of the peak."""
    tried: str
    """What it tried although it may not; empty where it behaved."""


def contained(
    work: Callable[[], int | None],
    folder: Path,
    writable: Sequence[Path],
    may: Sequence[str] = (),
    seconds: int = CPU_SECONDS,
) -> Outcome:
    """Do `work` in a child that stands in `folder` and may write only below `writable`.

    A GradienceError becomes what the command line makes of it. `may`: beginnings of audit events that are no attempt.
    """
    had = _resident()
    reader, writer = os.pipe()
    files = [os.memfd_create(name) for name in ("stdout", "stderr")]
    sys.stdout.flush()
    gc.freeze()  # what is loaded is neither walked through nor copied by a collection in the child
    child = os.fork()
    if not child:
        os.close(reader)
        _live(work, folder, (writable, may, seconds), files, writer)
    os.close(writer)
    tried = b"".join(iter(lambda: os.read(reader, 4096), b"")).decode("utf-8", "replace")
    os.close(reader)
    _, status, usage = os.wait4(child, 0)
    outputs = [_content(file) for file in files]
    return Outcome(
        os.waitstatus_to_exitcode(status),
        outputs[0],
        outputs[1],
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        had,
        tried,
    )


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def _content(file: int) -> bytes:
    size = os.fstat(file).st_size
    content = os.pread(file, size, 0)
    os.close(file)
    return content


def _live(
    work: Callable[[], int | None],
    folder: Path,
    bounds: tuple[Sequence[Path], Sequence[str], int],
    files: Sequence[int],
    pipe: int,
) -> NoReturn:
    """The child: never returns into the code of its parent."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate(files, 1):
            os.dup2(file, number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        os.chdir(folder)
        writable, may, seconds = bounds
        _limit(seconds)
        _watch(writable, may, pipe)
        code = _code_of(work)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001  (whatever it is, it belongs to this case alone)
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)


def _code_of(work: Callable[[], int | None]) -> int:
    try:
        return int(work() or 0)
    except GradienceError as error:
        show_error(str(error), error.hint)
        return error.exit_code
    except SystemExit as error:
        return int(error.code or 0)


def _limit(seconds: int) -> None:
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE, mapped + ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(WALL_SECONDS)


def _watch(writable: Sequence[Path], may: Sequence[str], pipe: int) -> None:
    """From now on the child ends where it tries what it may not."""
    homes = tuple(os.path.realpath(path) + "/" for path in writable)
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}

    def outside(path: Any, folder: int = -1, *, follow: bool = True) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):  # a descriptor that is open already
            return False
        base = f"/proc/self/fd/{folder}" if folder >= 0 else ""
        whole = os.path.join(base, os.fsdecode(path))
        above, name = os.path.split(whole)
        where = os.path.realpath(whole) if follow else os.path.join(os.path.realpath(above), name)
        return not (where + "/").startswith(homes) and where != os.devnull

    def forbidden(event: str, arguments: tuple[Any, ...]) -> bool:
        if (
            event == "ctypes.dlopen" and arguments[0] in loaded
        ):  # a handle of what runs already: threadpoolctl asks
            return False
        if event.startswith(tuple(may)):
            return False
        if event.startswith(STARTS) or event in RUNS_CODE:
            return True
        if event in CHANGES:
            return any(
                outside(
                    arguments[path], -1 if folder is None else arguments[folder], follow=event not in NAMES
                )
                for path, folder in CHANGES[event]
            )
        return event == "open" and bool(arguments[2] & WRITES) and outside(arguments[0])

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if forbidden(event, arguments):
            os.write(pipe, f"{event} {arguments!r}"[:500].encode("utf-8", "backslashreplace"))
            os._exit(TRIED)

    sys.addaudithook(hook)
