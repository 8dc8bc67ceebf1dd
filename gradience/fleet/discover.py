"""Discovery of adapters: folders of adapters, single adapters -> every adapter with its name."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.formats import known_names
from gradience.adapters.locate import WEIGHT_SUFFIXES, lone_weights, natural_key
from gradience.errors import InputError, UsageError
from gradience.files.shared_names import given_text
from gradience.fleet.settings import FleetSettings
from gradience.settings import paths_of

MARKS = known_names()
"""A folder with one of these files is taken for an adapter; its row reports an error if it is not one."""


class Fleet(NamedTuple):
    """Adapters by name (relative to the root, in order), and the number of folders without an adapter."""

    paths: Mapping[str, Path]
    elsewhere: int


def discover(sources: Sequence[Path], *, root: Path, recursive: bool = False) -> Fleet:
    """Return every adapter of the sources, each once.

    sources: an adapter; a folder whose folders and files are adapters.
    root: folder that names are relative to; every adapter is below it.
    recursive: look into folders at any depth, also below an adapter. Links to folders are followed once.

    Raises InputError (what `reading` raises; no-adapters), UsageError (outside-root).
    """
    home = Path(os.path.realpath(root))
    paths: dict[str, Path] = {}
    elsewhere = 0
    for source in sources:
        matches, empty = _adapters_of(source, recursive=recursive)
        elsewhere += empty
        for path in matches:
            paths.setdefault(_name(path, home, root), path)
    if not paths:
        raise InputError(
            f"{sources[0] if len(sources) == 1 else f'{len(sources)} places'}: no adapters found",
            code="no-adapters",
            hint="give a folder of adapter folders, or add --recursive to search deeper",
        )
    return Fleet({name: paths[name] for name in sorted(paths, key=natural_key)}, elsewhere)


def _adapters_of(source: Path, *, recursive: bool) -> tuple[list[Path], int]:
    """Return the adapters of one source, and how many of its folders hold none.

    A folder that cannot be read is among the adapters: its row says why. Hidden ones are left out, and each real folder
    is looked into once.
    """
    if not os.path.isdir(source) or (_marked(source) and not recursive):
        return [source], 0  # an adapter, a file, or nothing; the row says which
    matches = [source] if _marked(source) else []
    empty, visited, waiting = 0, set(), [source]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in visited:
            continue
        visited.add(real)
        entries = _entries(folder)
        if entries is None:
            matches.append(folder)
        for entry in entries or ():
            path = Path(entry.path)
            if not _is_folder(entry):
                if entry.name.lower().endswith(WEIGHT_SUFFIXES) and not _marked(folder):
                    matches.append(path)
                continue
            if recursive:
                waiting.append(path)
            if _marked(path):
                matches.append(path)
            elif not recursive:
                inner = _entries(path)
                lone = lone_weights([item.name for item in inner or ()])
                if inner is None:
                    matches.append(path)
                elif lone is None:
                    empty += 1
                else:
                    matches.append(path / lone)
    return matches, empty


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a folder that cannot be read
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]] | None:
    """Return what is in a folder, without hidden names; None if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name
            )
    except OSError:
        return None


def _marked(folder: Path) -> bool:
    return any(os.path.lexists(folder / mark) for mark in MARKS)


def root_of(settings: FleetSettings) -> Path:
    """Return the root that is set, or the current folder, or for sources that are not below it the one above them."""
    if settings.root is not None:
        return Path(settings.root)
    places = [_place(source) for source in paths_of(settings.sources)]
    if not places or all(place.is_relative_to(os.path.realpath(".")) for place in places):
        return Path(".")
    return Path(os.path.commonpath([place.parent for place in places]))


def _place(path: Path) -> Path:
    """Return the absolute path, without following the adapter's own link."""
    if path.name in ("", ".."):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent), path.name)


def _name(path: Path, home: Path, root: Path) -> str:
    """The path below the root."""
    place = _place(path)
    if not place.is_relative_to(home):
        raise UsageError(
            f"{path}: not inside the root {root}, to which adapter names are relative",
            code="outside-root",
            hint="give --root a folder that contains all adapters (Python: root=)",
        )
    return given_text(place.relative_to(home).as_posix())
