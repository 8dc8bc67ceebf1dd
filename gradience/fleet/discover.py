"""Where the adapters are: folders of adapters, lists of paths, single adapters -> every adapter with its name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from gradience.adapters.formats import known_names
from gradience.adapters.locate import WEIGHT_SUFFIXES, lone_weights, natural_key
from gradience.artifacts.shared_names import given_text
from gradience.errors import InputError, UsageError
from gradience.reading import MAX_DATA_BYTES, cannot_open, read_file

MARKS = known_names()
"""A folder with one of these files is taken for an adapter; whether it is one, its row says."""
LIST = ".txt"


class Member(NamedTuple):
    """One adapter: its name, relative to the root, and where it is."""

    name: str
    path: Path


class Fleet(NamedTuple):
    """The adapters in order of their names, and how many folders were looked into and hold none."""

    members: tuple[Member, ...]
    elsewhere: int


def discover(sources: Sequence[Path], *, root: Path, recursive: bool = False) -> Fleet:
    """Return every adapter of the sources, each once.

    sources: an adapter; a folder whose folders and files are adapters; a .txt file with a path a line.
    root: what names are relative to; every adapter lies below it.
    recursive: look into folders at any depth, also below an adapter. Links to folders are followed once.

    Raises InputError (what `reading` raises; no-adapters), UsageError (outside-root).
    """
    home = Path(os.path.realpath(root))
    paths: dict[str, Path] = {}
    elsewhere = 0
    for source in _with_lists(sources):
        matches, empty = _adapters_of(source, recursive=recursive)
        elsewhere += empty
        for path in matches:
            paths.setdefault(_name(path, home, root), path)
    if not paths:
        raise InputError(
            f"{sources[0] if len(sources) == 1 else f'{len(sources)} places'}: no adapters there",
            code="no-adapters",
            hint="give a folder whose folders are adapters, or --recursive to look deeper",
        )
    ordered = sorted(paths, key=natural_key)
    return Fleet(tuple(Member(name, paths[name]) for name in ordered), elsewhere)


def _with_lists(sources: Iterable[Path]) -> Iterator[Path]:
    """The sources, a list replaced by what stands in it: relative paths start at the list's own folder."""
    for source in sources:
        if source.suffix == LIST and source.is_file():
            text = read_file(source, MAX_DATA_BYTES).decode("utf-8", "surrogateescape")
            lines = (line.strip() for line in text.splitlines())
            yield from (source.parent / line for line in lines if line and not line.startswith("#"))
        else:
            yield source


def _adapters_of(source: Path, *, recursive: bool) -> tuple[list[Path], int]:
    """The adapters of one source, and how many of its folders hold none."""
    if not os.path.isdir(source):
        return [source], 0  # a file, or nothing: its row says so
    if _marked(source) and not recursive:
        return [source], 0
    matches = [source] if _marked(source) else []
    empty = 0
    for folder in _folders(source) if recursive else [source]:
        for entry in _entries(folder):
            if entry.is_dir():
                if _marked(Path(entry.path)):
                    matches.append(Path(entry.path))
                elif not recursive:
                    lone = lone_weights([inner.name for inner in _entries(Path(entry.path))])
                    matches += [] if lone is None else [Path(entry.path, lone)]
                    empty += lone is None
            elif entry.name.lower().endswith(WEIGHT_SUFFIXES) and not _marked(folder):
                matches.append(Path(entry.path))
    return matches, empty


def _folders(source: Path) -> Iterator[Path]:
    """The folder and all below it; hidden ones left out, and each real folder once."""
    seen = set()
    waiting = [source]
    while waiting:
        folder = waiting.pop()
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        yield folder
        waiting += [Path(entry.path) for entry in _entries(folder) if entry.is_dir()]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name
            )
    except OSError as error:
        raise cannot_open(folder, error) from None


def _marked(folder: Path) -> bool:
    return any(os.path.lexists(folder / mark) for mark in MARKS)


def _name(path: Path, home: Path, root: Path) -> str:
    """The path below the root, without following the adapter's own link."""
    place = (
        Path(os.path.realpath(path.parent), path.name)
        if path.name not in ("", "..")
        else Path(os.path.realpath(path))
    )
    if not place.is_relative_to(home):
        raise UsageError(
            f"{path}: not below {root}, which the names of the adapters are relative to",
            code="outside-root",
            hint="give --root DIR, a folder that holds all of them (Python: root=)",
        )
    return given_text(place.relative_to(home).as_posix())
