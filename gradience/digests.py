"""sha256 in hexadecimal: of bytes, of text, of a file, of JSON. The one place that hashes."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gradience.reading import open_stream

Sha256 = hashlib.sha256
"""A digest that is fed as the bytes come: `update(data)`, then `hexdigest()`."""


def sha256_parts(parts: Iterable[bytes | bytearray | memoryview]) -> str:
    """The digest of `parts`, one after the other; only one of them is held in memory.

    >>> sha256_parts([b"a", b"b"]) == sha256_text("ab")
    True
    """
    digest = Sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sha256_bytes(data: bytes) -> bytes:
    """The digest itself, 32 bytes."""
    return Sha256(data).digest()


def sha256_text(text: str) -> str:
    """The digest of `text` in UTF-8."""
    return sha256_parts([text.encode()])


def in_first_half(text: str) -> bool:
    """Return True for half of all texts, by their digests."""
    return int(sha256_text(text)[:8], 16) % 2 == 0


def sha256_file(path: Path, *, limit: int | None = None) -> str:
    """The digest of the file at `path`, read piece by piece. Raises InputError as `open_regular` does."""
    with open_stream(path, limit=limit) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The digest of a value as JSON with sorted keys and without blanks: equal for equal values on every machine."""
    return sha256_text(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    )


def sha256_rows(rows: Iterable[Sequence[Any]]) -> str:
    """The digest of `rows`, each a line of JSON, in their order."""
    return sha256_parts(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


# ---------------------------------------------------------------- the code that runs

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
