"""The process of vLLM: it has its own Python, since vLLM pins its own torch, and its own environment (one device, no
prompts, vLLM's variables). It is started once, receives requests as lines of JSON (server.py), and ends with ours."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import torch

from gradience.errors import EngineError, UsageError
from gradience.evaluate.engines.base import OutOfMemoryError
from gradience.models.devices import VISIBLE, visible_name
from gradience.words import counted

PYTHON = "GRADIENCE_ENGINE_PYTHON"
"""Environment variable that names the Python. No config can: only the user decides which program runs."""
SERVER = Path(__file__).with_name("server.py")
SECONDS = 60
"""Seconds to list the installed packages."""
HOW = (
    "give --engine-python PATH (or set GRADIENCE_ENGINE_PYTHON): the python of an environment with"
    " `pip install vllm`"
)
BATCH_INVARIANT = "VLLM_BATCH_INVARIANT"
"""vLLM's variable for answers that do not depend on the rest of the batch. It makes vLLM slower."""
CACHE = "VLLM_CPU_KVCACHE_SPACE"
"""vLLM's own variable: GiB for keys and values on a processor."""
CACHE_GIB = "2"
"""Unless that says otherwise."""
LEAVES = 30
"""Seconds that it has to leave, before it is killed."""
LAST = 4
"""Lines of its output that a message quotes."""
LONGEST = 300
"""Characters of a refusal: some list all that there is."""


def interpreter() -> str:
    """Return the program that the environment names. Raises UsageError (`no-engine-python`)."""
    named = os.environ.get(PYTHON)
    if not named:
        raise UsageError("the engine vllm needs its own Python", code="no-engine-python", hint=HOW)
    program = shutil.which(named)
    if program is None:
        raise UsageError(f"{named}: no such program", code="no-engine-python", hint=HOW)
    return program


@cache
def versions_in(python: str) -> dict[str, str]:
    """Return the installed versions of vLLM and its numeric dependencies, without importing them.

    Raises UsageError: `no-engine-python` if this is not a Python, `no-vllm` if it lacks vLLM.
    """
    try:
        done = subprocess.run(
            [python, str(SERVER), "versions"], env=_clean(), capture_output=True, timeout=SECONDS, check=True
        )
        versions: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageError(
            f"{python}: cannot be used as the Python of vLLM: {error}", code="no-engine-python", hint=HOW
        ) from None
    if "vllm" not in versions:
        raise UsageError(f"{python}: vLLM is not installed there", code="no-vllm", hint=HOW)
    return versions


def _clean() -> dict[str, str]:
    """Return the environment for another Python, without this one's module paths."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def environment(device: torch.device) -> dict[str, str]:
    """Return that of one process on this device: a refusal arrives as one, and no worker outlives it."""
    return {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # one token more than the context: it is not read
        CACHE: os.environ.get(CACHE, CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        VISIBLE: visible_name(device),
    }


def is_batch_invariant() -> bool:
    """Return True if vLLM must give answers that do not depend on the rest of the batch."""
    return os.environ.get(BATCH_INVARIANT, "0") not in ("", "0")


class RefusedByVllm(Exception):
    """vLLM does not take a model, an adapter or a sequence; why, in its words."""


class VllmProcess:
    """A running server.py."""

    def __init__(self, python: str, environment: Mapping[str, str]) -> None:
        """python: as `interpreter` names it. environment: added to that of this process."""
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process is)
        self._child = subprocess.Popen(
            [python, str(SERVER)],
            env=_clean() | dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            encoding="utf-8",
        )

    def ask(self, method: str, **arguments: Any) -> Any:
        """Return the result of a method of `server.Server`.

        Raises RefusedByVllm, OutOfMemoryError, and EngineError (`engine-died`) if the process is gone.
        """
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):  # then there is no reply
            self._child.stdin.write(json.dumps({"ask": method, **arguments}) + "\n")
            self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            self._died(method)
        reply = json.loads(line)
        if "refusal" not in reply:
            return reply["answer"]
        raise (OutOfMemoryError if reply["memory"] else RefusedByVllm)(_first_line(reply["refusal"]))

    def _died(self, method: str) -> NoReturn:
        code = self._child.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        hint = "the system may have run out of memory (signal 9)" if code < 0 else ""
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").split("\n")
        last = [line.strip() for line in lines if line.strip()][-LAST:]
        printed = (
            f"Its last {counted(len(last), 'line')}: {' / '.join(last)}" if last else "It printed nothing"
        )
        raise EngineError(
            f"the vLLM process {how} during {method!r}. {printed}", code="engine-died", hint=hint
        )

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(LEAVES)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._child.stdout.close()
        self._printed.close()


def _first_line(text: str) -> str:
    """Return an error message in one line. pydantic's start with the number of errors, and end with a type."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reasons = [
        line.partition(" [type=")[0].removeprefix("Value error, ") for line in lines if " [type=" in line
    ]
    line = next(iter(reasons or lines), text)
    return line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] + " …"
