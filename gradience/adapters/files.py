"""File type detection: safetensors weights, or the common files that are mistaken for them."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from gradience.errors import InputError
from gradience.files import strict_json
from gradience.files.strict_json import BOM
from gradience.reading import MAX_SETTINGS_BYTES, open_regular, read_file

_LFS = b"version https://git-lfs.github.com/spec/"
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of a pickle under any name: no text in UTF-8 begins so."""
GGUF_HINT = "rename the file so that it ends in .gguf, and point at it"
_ARCHIVE = "unpack it, and point at the adapter's folder"
_MAGICS: tuple[tuple[bytes, str, str], ...] = (
    (b"GGUF", "a GGUF file", GGUF_HINT),
    (b"PK\x03\x04", "a zip archive (what torch.save writes)", ""),
    *((start, "a Python pickle", "") for start in PICKLE_STARTS),
    (b"\x1f\x8b", "a gzip archive", _ARCHIVE),
)
"""First bytes, kind of file, hint; without a hint it is a pickle."""
_TAR = slice(257, 262)
"""Position of a tar archive's magic bytes, `ustar`."""


class Closing(ABC):
    """A context manager that calls `close` at its end."""

    @abstractmethod
    def close(self) -> None:
        """Close the open files."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@contextmanager
def kept_open(path: Path, root: Path | None) -> Iterator[int]:
    """A file open for reading, which is closed if something is raised within. Raises as `open_regular` does."""
    handle = open_regular(path, root=root)
    try:
        yield handle
    except BaseException:  # Ctrl-C as well: nobody else knows the handle yet
        os.close(handle)
        raise


def read_object(path: Path, *, root: Path | None = None, limit: int = MAX_SETTINGS_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises InputError: bad-config if the JSON is not an object, and what `read_file`, `refuse_disguise` and
    `strict_json` raise.
    """
    text = read_file(path, limit, root=root)
    refuse_disguise(path, text[:1024])
    fields = strict_json.loads(text, path, path.name)
    if not isinstance(fields, dict):
        raise InputError(
            f"{path}: it is not a JSON object", code="bad-config", hint="download it or save it again"
        )
    return fields


def pickle_hint(adapter: str) -> str:
    """Return the hint for an adapter whose weights are a pickle."""
    return (
        "Pickle files can run code. --allow-pickle reads it in a sandboxed process. Commands without this option read "
        f"what gradience convert {adapter} converted --allow-pickle writes"
    )


def refuse_placeholder(path: Path, head: bytes) -> None:
    """Raise InputError when `head` (the first bytes) shows that this is only a placeholder for a file.

    Codes: empty-file, lfs-pointer, html-page.
    """
    if not head:
        raise InputError(
            f"{path}: the file is empty", code="empty-file", hint="download or save the adapter again"
        )
    if head.startswith(_LFS):
        size = re.search(rb"^size (\d{1,19})$", head, re.MULTILINE)
        real = f" of a file of {int(size[1]):,} bytes" if size else ""
        raise InputError(
            f"{path}: a Git LFS pointer{real}, not the file itself",
            code="lfs-pointer",
            hint="run `git lfs pull` in the repository, or download it with `hf download`",
        )
    start = head.removeprefix(BOM).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise InputError(
            f"{path}: a web page, not the file itself (the download got an error or login page)",
            code="html-page",
            hint="download it again with `hf download`, logged in if the repository is gated",
        )


def refuse_disguise(path: Path, head: bytes) -> None:
    """Raise InputError when `head` shows that the file is something else than its name says.

    Codes: those of `refuse_placeholder`, and wrong-format.
    """
    refuse_placeholder(path, head)
    matches = [(kind, hint) for magic, kind, hint in _MAGICS if head.startswith(magic)]
    if head[_TAR] == b"ustar":
        matches.append(("a tar archive", _ARCHIVE))
    for kind, hint in matches:
        raise InputError(f"{path}: this is {kind}", code="wrong-format", hint=hint or pickle_hint(str(path)))


def refuse_text(path: Path, head: bytes) -> None:
    """Raise InputError (code wrong-format) when `head` begins a JSON text in the place of weights."""
    start = head.removeprefix(BOM).lstrip()
    if start.startswith((b"{", b"[")) and b"\0" not in start:
        shown = start[:60].decode("utf-8", "replace")
        raise InputError(
            f"{path}: a JSON text, not weights (it starts with {shown!r}: a server's error message, or a config?)",
            code="wrong-format",
            hint="download the weights again with `hf download`, which reports a server's errors",
        )
