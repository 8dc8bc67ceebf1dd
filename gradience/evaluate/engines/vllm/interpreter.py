"""The Python that vLLM is installed in: vLLM pins a torch of its own, so that it is not the one that runs this."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from gradience.errors import UsageError

PYTHON = "GRADIENCE_ENGINE_PYTHON"
"""Environment variable that names it. No config can: what is run is for who runs it to say."""
SERVER = Path(__file__).with_name("server.py")
SECONDS = 60
"""For a list of what is installed."""
HOW = (
    "give --engine-python PATH (or set GRADIENCE_ENGINE_PYTHON): the python of an environment with"
    " `pip install vllm`"
)


def interpreter() -> str:
    """The program that the environment names. Raises UsageError (`no-engine-python`)."""
    named = os.environ.get(PYTHON)
    if not named:
        raise UsageError("the engine vllm needs a Python of its own", code="no-engine-python", hint=HOW)
    program = shutil.which(named)
    if program is None:
        raise UsageError(f"{named}: there is no such program", code="no-engine-python", hint=HOW)
    return program


@cache
def versions_in(python: str) -> dict[str, str]:
    """Of vLLM and what it computes with, as they are installed there; nothing is imported.

    Raises UsageError: `no-engine-python` for what is no Python, `no-vllm` where it has none.
    """
    try:
        done = subprocess.run(
            [python, str(SERVER), "versions"], env=clean(), capture_output=True, timeout=SECONDS, check=True
        )
        versions: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UsageError(
            f"{python}: cannot be used as the Python of vLLM: {error}", code="no-engine-python", hint=HOW
        ) from None
    if "vllm" not in versions:
        raise UsageError(f"{python}: vLLM is not installed there", code="no-vllm", hint=HOW)
    return versions


def clean() -> dict[str, str]:
    """The environment for another Python: without what says where this one finds its modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
