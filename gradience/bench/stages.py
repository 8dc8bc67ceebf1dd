"""Stages: a folder each, complete when its manifest is there, found again by the key of what it depends on.

A stage may be killed at any moment. What it had written stays, so that a training goes on from its checkpoint
and an evaluation from its last block; only when the key has changed does a stage begin with an empty folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradience.artifacts.base import write_whole
from gradience.artifacts.scratch import sweep_below
from gradience.artifacts.stage import StageFile, StageManifest
from gradience.bench.archives import sha256_of
from gradience.errors import LockedError

VERSION = 1
"""Raised when a stage starts to mean something else: what was made before is then made again."""
MANIFEST, BEGUN = "manifest.json", "begun"

Make = Callable[[Path], None]
"""Fills the folder it is given; called again with what is there after a kill."""
Watch = Callable[[str], Callable[[], int | None]]
"""Begins to watch the memory of the stage of this name; what it gives reads the peak since then, in bytes."""


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages of one seed, below one folder."""

    folder: Path
    watch: Watch
    plan: str | None = None
    """Digest of the plan that the run follows; every manifest carries it."""

    def done(self, name: str, depends: Mapping[str, Any], make: Make) -> Path:
        """The folder of the stage `name`, made from `depends` by `make` unless it is there already."""
        folder, key = self.folder / name, stage_key(name, depends)
        if manifest_of(folder, key) is not None:
            return folder
        _begin(folder, key)
        started, peak = time.perf_counter(), self.watch(name)
        make(folder)
        (folder / BEGUN).unlink()
        StageManifest(
            stage=name,
            key=key,
            plan_digest=self.plan,
            files=files_of(folder),
            seconds=time.perf_counter() - started,
            peak_memory_bytes=peak(),
        ).save(folder / MANIFEST)
        return folder


def stage_key(name: str, depends: Mapping[str, Any]) -> str:
    """sha256 over what a stage depends on. Values must be what JSON can hold."""
    text = json.dumps({"stage": name, "version": VERSION, **depends}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def manifest_of(folder: Path, key: str) -> StageManifest | None:
    """The manifest of a finished stage with this key; None when it is still to be made."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = StageManifest.read(folder / MANIFEST)
    return manifest if manifest.key == key else None


def files_of(folder: Path) -> dict[str, StageFile]:
    """Every file below `folder`, with its digest."""
    return {
        str(path.relative_to(folder)): StageFile(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _begin(folder: Path, key: str) -> None:
    """Make the folder ready: what an interrupted run with the same key had written stays."""
    begun = folder / BEGUN
    if begun.is_file() and begun.read_text(encoding="utf-8") == key:
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    write_whole(begun, [key.encode()])


@contextmanager
def only_one(folder: Path, *, wait: float = 0) -> Iterator[None]:
    """Hold the output against a second run, and clear away what killed ones left half-written.

    The system lets go of the lock when the process ends, however it ends. wait: seconds for which to wait for that.
    Raises LockedError (`output-locked`).
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=wait):
            sweep_below(folder)
            yield
    except Timeout:
        raise LockedError(
            f"{folder}: another run is writing here",
            code="output-locked",
            hint="wait for it, or give another --output",
        ) from None
