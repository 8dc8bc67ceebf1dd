"""Identity of the code that runs: the commit of a clone, or the digest of the installed package."""

import subprocess
from pathlib import Path

from gradience.digests import sha256_file, sha256_rows

PACKAGE = Path(__file__).parent


def code_version() -> str:
    """Return `commit SHA` in an unmodified clone, else `files SHA`: the digest of the package as a wheel holds it.

    In a modified clone both, the commit first. `files` is the sha256 over one line of JSON for each file, its name
    inside the package and its sha256, in order.
    """
    if not (PACKAGE.parent / ".git").exists():
        return f"files {_files()}"
    try:
        commit, changes = (_git(*words) for words in (("rev-parse", "HEAD"), ("status", "--porcelain", ".")))
    except (OSError, subprocess.CalledProcessError):  # no git here, or not its owner
        return f"files {_files()}"
    return f"commit {commit}" + (f", modified: files {_files()}" if changes else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(PACKAGE), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _files() -> str:
    paths = sorted(
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    return sha256_rows([name, sha256_file(PACKAGE / name)] for name in paths)
