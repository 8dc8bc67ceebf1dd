"""A look at the names in a stranger's file, to tell its format: nothing is said here about what is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.locate import natural_key
from gradience.adapters.tensors import TensorFile
from gradience.errors import InputError


def listing(folder: Path) -> list[str]:
    """The names in a folder; none where it cannot be read."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def single(path: Path, adapter: str | None, fits: Callable[[str], object], what: str) -> Path:
    """The file at `path`, or the one in this folder whose name fits; of several the one that is called `adapter`.

    what: the files, as a message calls them. Raises InputError (several-adapters, no-such-adapter).
    """
    if not os.path.isdir(path):
        if adapter is not None:
            raise InputError(
                f"{path}: contains one adapter without a name, so none called {adapter!r}",
                code="no-such-adapter",
                hint="leave --adapter out",
            )
        return path
    names = sorted(filter(fits, listing(path)), key=natural_key)
    if adapter is not None and adapter not in names:
        raise InputError(
            f"{path}: contains no weights called {adapter!r}",
            code="no-such-adapter",
            hint=f"--adapter {names[-1]}",
        )
    if adapter is None and len(names) > 1:
        raise InputError(
            f"{path}: contains {len(names)} {what}, {names[0]} to {names[-1]}",
            code="several-adapters",
            hint=f"name one with --adapter {names[-1]}",
        )
    return path / (adapter or names[0])


class Sniffed(NamedTuple):
    """Names and shapes of the tensors in a file, and its metadata; nothing of a file that cannot be read."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]


def sniff(path: Path) -> Sniffed:
    """What the header of the safetensors file at `path` names; nothing where it is none, or broken.

    The format that takes what no other one knows opens it again, and says what is wrong.
    """
    if path.suffix.lower() != ".safetensors":
        return Sniffed({}, {})
    try:
        with TensorFile.open(path) as file:
            return Sniffed({name: entry.shape for name, entry in file.entries.items()}, file.metadata)
    except InputError:
        return Sniffed({}, {})
