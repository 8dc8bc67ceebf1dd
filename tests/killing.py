"""Processes killed at moments that are counted, never timed: the same moment on a fast, a slow and a busy machine.

A moment is a call, a return, or a call into C (a write, an fsync, a rename) made by code in one of the watched files.
Children are forked, so a program that has loaded its libraries once can be killed a thousand times.
"""

import gc
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any

import gradience

PACKAGE = Path(gradience.__file__).parent
WRITING = ("files/artifact.py", "files/whole.py")
KILLED = -signal.SIGKILL
HANGS = 1800
"""Seconds after which a process counts as hung: a guard against waiting for ever, not a measurement."""


def watched(*names: str) -> set[str]:
    """Files of the package, by the ends of their paths; all of them without a name."""
    paths = [str(path) for path in PACKAGE.rglob("*.py")]
    matching = {path for path in paths if not names or path.endswith(names)}
    assert len(matching) >= len(names)
    return matching


def each_moment(files: set[str], then: Callable[[int], None]) -> None:
    """From now on call `then` with 1, 2, 3 … at each moment in `files` (of this thread)."""
    number = 0

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal number
        if frame.f_code.co_filename in files:
            number += 1
            then(number)

    sys.setprofile(note)


def in_child(work: Callable[[], int | None], files: set[str] | None = None, kill_at: int = 0) -> int:
    """Exit status of `work` in a child process, which kills itself at the moment `kill_at` in `files`."""

    def die(number: int) -> None:
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    gc.freeze()  # what is loaded is neither walked through nor copied by a collection in the child
    child = os.fork()
    if not child:
        try:
            if files:
                each_moment(files, die)
            code = work() or 0
        except BaseException:  # noqa: BLE001  (a child never returns into its parent's code)
            traceback.print_exc()
            code = 1
        finally:
            sys.setprofile(None)
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def moments_of(work: Callable[[], int | None], files: set[str]) -> int:
    """Return the number of moments in `work`, counted in a child process."""
    reader, writer = os.pipe()

    def counted() -> None:
        os.write(writer, str(work_of(work, files)).encode())

    code = in_child(counted)
    os.close(writer)
    answer = os.read(reader, 64)
    os.close(reader)
    assert code == 0, "what nobody kills must end well"
    return int(answer)


def work_of(work: Callable[[], object], files: set[str]) -> int:
    """Return the number of moments in `work`, run in this process: a measure of work that does not depend on load."""
    last = 0

    def note(number: int) -> None:
        nonlocal last
        last = number

    each_moment(files, note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return last


def program(script: Path, *arguments: object) -> str:
    """stdout of a script that forks and kills, run where no other test has left a thread."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(script.parent), str(tests), str(tests.parent), *sys.path])
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False, timeout=HANGS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


FRESH = multiprocessing.get_context("spawn")
LOADED = multiprocessing.get_context("forkserver")
LOADED.set_forkserver_preload(["torch", "transformers", "peft"])


def apart(work: Callable[..., Any], *arguments: object, models: bool = False, **keywords: object) -> Any:
    """Return the result of `work`, run in a separate process without the threads of other tests.

    models: that process is forked from one that has imported PyTorch and PEFT, which takes five seconds.
    """
    with ProcessPoolExecutor(1, mp_context=LOADED if models else FRESH) as pool:
        try:
            return pool.submit(work, *arguments, **keywords).result(HANGS)
        except TimeoutError:
            for process in multiprocessing.active_children():
                process.kill()
            raise


def drawn(moments: int, kills: int, seed: int) -> list[int]:
    """Moments to kill at, one run after the other, each within its share of the whole: all of them hit a live run."""
    draw = random.Random(seed)
    return [draw.randint(1, moments // (kills + 1)) for _ in range(kills)]
