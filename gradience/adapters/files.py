"""File type detection: safetensors weights, or other files, methods and models, which are refused with a hint.

A format that becomes supported moves from here to `formats.py`.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from gradience.errors import InputError
from gradience.files import strict_json
from gradience.reading import MAX_SETTINGS_BYTES, open_regular, read_file

_LFS = b"version https://git-lfs.github.com/spec/"
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
"""First bytes of a pickle under any name: no text in UTF-8 begins so."""
GGUF_HINT = "rename the file so that it ends in .gguf, and point at it"
_MAGICS = {
    b"GGUF": "a GGUF file",
    b"PK\x03\x04": "a zip archive (what torch.save writes)",
    **dict.fromkeys(PICKLE_STARTS, "a Python pickle"),
}
"""First bytes -> the kind of file."""


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
        "Pickle files can run code. Add --allow-pickle to read it in a sandboxed process. For a command without this "
        f"option, convert the adapter first: gradience convert {adapter} converted --allow-pickle"
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
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
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
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            hint = GGUF_HINT if magic == b"GGUF" else pickle_hint(str(path))
            raise InputError(f"{path}: this is {kind}", code="wrong-format", hint=hint)


# ---------------------------------------------------------------- other methods, tools and models

LOHA_HINT = (
    "only LoRA adapters can be read. Convert LoHa or LoKr with peft.save_as_lora(FOLDER, model, rank), then use that"
    " folder; load LyCORIS files with the lycoris library first"
)
MLX_HINT = "rename the weights to adapters.safetensors, as mlx-lm names them, and keep adapter_config.json beside them"


def refuse_method(path: Path, what: str) -> InputError:
    """The error for an adapter of another method than LoRA. what: what the file has instead."""
    convertible = any(method in what.upper() for method in ("LOHA", "LOKR"))
    return InputError(
        f"{path}: {what}, not LoRA",
        code="other-method",
        hint=LOHA_HINT if convertible else "only LoRA adapters can be read: train LoRA instead",
    )
