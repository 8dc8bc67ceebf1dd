"""Programs in a process of their own."""

import os
import subprocess
import sys
from typing import Any

from killing import HANGS


def python(
    *words: object, environment: dict[str, str] | None = None, text: bool = True, **options: Any
) -> subprocess.CompletedProcess[Any]:
    """`python WORDS`. options: of subprocess.run."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=os.environ | (environment or {}), encoding="utf-8" if text else None, timeout=HANGS, check=False,
        **piped | options,
    )  # fmt: skip


def gradience(*words: object, **options: Any) -> subprocess.CompletedProcess[Any]:
    """`gradience WORDS`, as a user runs it."""
    return python("-m", "gradience", *words, **options)


def printed_by(code: str, *words: object, **options: Any) -> str:
    """Run Python code that must succeed, and return what it prints."""
    done = python("-c", code, *words, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)
